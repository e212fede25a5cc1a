import { WG_KEY } from '../../linux/wg.js'
import { type NetworkConfig, option } from '../../subnet/network-config.js'
import type { Family } from '../../subnet/prefix.js'
import { BackendError } from '../errors.js'
import { readNumber } from '../options.js'
import type { WireguardMode } from './peers.js'

/** flannel's, and WireGuard's own. */
const DEFAULT_PORTS = { 4: 51_820, 6: 51_821 } as const

const MODES: readonly WireguardMode[] = ['separate', 'auto', 'ipv4', 'ipv6']

export interface WireguardOptions {
  /** Of a device that carries IPv6 alone in mode separate, the other. */
  readonly listenPort: number
  readonly listenPortV6: number
  /** Of the underlay; undefined for that of its link. */
  readonly mtu: number | undefined
  readonly presharedKey: string | undefined
  readonly keepalive: number
  readonly mode: WireguardMode
}

/** Throws BackendError. */
export function checkWireguard({
  backend: { options },
}: NetworkConfig): WireguardOptions {
  const port = (name: string, family: Family): number => {
    const range = { least: 0, most: 65_535, otherwise: 0 }
    return readNumber(options, name, range) || DEFAULT_PORTS[family]
  }
  const mtu = readNumber(options, 'MTU', { least: 0, most: 65_535, otherwise: 0 })
  return {
    listenPort: port('ListenPort', 4),
    listenPortV6: port('ListenPortV6', 6),
    mtu: mtu === 0 ? undefined : mtu,
    presharedKey: readPresharedKey(option(options, 'PSK')),
    keepalive: readNumber(options, 'PersistentKeepaliveInterval', {
      least: 0,
      most: 65_535,
      otherwise: 0,
    }),
    mode: readMode(option(options, 'Mode')),
  }
}

function readPresharedKey(value: unknown): string | undefined {
  if (value === undefined || value === '') return undefined
  if (typeof value === 'string' && WG_KEY.test(value)) return value
  // A secret, nearly.
  throw new BackendError(
    'ERR_BACKEND_OPTION',
    'Backend.PSK is no key of 32 bytes in base64; make one with wg genpsk',
  )
}

function readMode(value: unknown = ''): WireguardMode {
  const mode = value === '' ? 'separate' : MODES.find(each => each === value)
  if (mode !== undefined) return mode
  throw new BackendError(
    'ERR_BACKEND_OPTION',
    `Backend.Mode is ${JSON.stringify(value)}; no valid Mode configured: it must be ${MODES.join(', ')}`,
  )
}
