import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { inside } from '../../cmd/flannelctl/lab/namespaces.js'
import { ETCD_ENDPOINT } from '../../cmd/flannelctl/lab/topology.js'

const PROGRAM = fileURLToPath(new URL('../../cmd/flannelctl.js', import.meta.url))

export interface CommandResult {
  readonly exitCode: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs flannelctl on a host of a lab, as its operator would: with the flags of its daemon. */
export async function flannelctl(
  host: LabHost,
  args: readonly string[],
  input = '',
): Promise<CommandResult> {
  const flags = [`--etcd-endpoints=${ETCD_ENDPOINT}`, ...host.daemon.placeFlags]
  const [name = '', ...rest] = args
  // What the caller gives comes last and counts.
  const command = [process.execPath, PROGRAM, name, ...flags, ...rest]
  const entered = inside(host.namespace, command)
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...entered], {
    stdio: 'pipe',
  })
  child.stdin.end(input)
  const [stdout, stderr, [exitCode]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close') as Promise<[number | null]>,
  ])
  return { exitCode, stdout, stderr }
}
