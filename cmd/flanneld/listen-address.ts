import { isIP } from 'node:net'
import { UsageError } from './parse-flags.js'

export interface ListenAddress {
  readonly host: string
  readonly port: number
}

/** Reads `127.0.0.1:9752`, `[::1]:9752` or `:9752`. Throws UsageError. */
export function readListenAddress(flag: string, text: string): ListenAddress {
  const [, bracketed, plain, port] = /^(?:\[([^\]]*)\]|([^:]*)):(\d+)$/.exec(text) ?? []
  const host = bracketed ?? plain ?? ''
  const number = Number(port)
  if (
    port === undefined ||
    number < 1 ||
    number > 65_535 ||
    (host !== '' && isIP(host) === 0)
  )
    throw new UsageError(
      `--${flag} is ${JSON.stringify(text)}; it takes an IP address and a port, as 127.0.0.1:9752`,
    )
  return { host: host === '' ? '::' : host, port: number }
}
