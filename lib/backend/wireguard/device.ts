import { batch } from '../../linux/ip-batch.js'
import { type Link, listLinks } from '../../linux/ip-links.js'
import { CommandError, NotThereError, run } from '../../linux/run.js'
import { type WgDevice, setWg, showWg } from '../../linux/wg.js'
import type { Prefix } from '../../subnet/prefix.js'
import { BackendError } from '../errors.js'
import {
  NO_LINK_LOCAL,
  type OwnLink,
  linesToMend,
  setUpLink,
} from '../kernel/own-link.js'
import type { OwnKey } from './keys.js'
import type { PeerDevice } from './peers.js'

/** A WireGuard device as it is to be. */
export interface WireguardDevice extends OwnLink, PeerDevice {
  readonly alias: string
  /** The subnets of this host that it carries. */
  readonly subnets: readonly Prefix[]
  readonly key: OwnKey
}

/** The implementation that carries a device's packets. */
export type Implementation = 'kernel' | 'wireguard-go'

/** wireguard-go's device is a TUN. */
const KINDS: Readonly<Record<string, Implementation>> = {
  wireguard: 'kernel',
  tun: 'wireguard-go',
}

export function implementationOf(link: Link | undefined): Implementation | undefined {
  return KINDS[link?.kind ?? '']
}

/**
 * Makes the device, by the kernel or by wireguard-go, or mends the one that is
 * there; its peers are left alone. Returns whether there was something to do.
 * Throws BackendError.
 */
export async function ensureWireguard(
  device: WireguardDevice,
  link: Link | undefined,
): Promise<boolean> {
  const { name } = device
  if (link !== undefined) refuseForeign(device, link)
  try {
    if (link === undefined) await create(name)
    const there = link ?? (await listLinks()).find(each => each.name === name)
    if (there === undefined)
      throw new BackendError('ERR_DEVICE', `${name} is gone as soon as it is made`)
    const words = wordsToMend(device, await showWg(name))
    if (words.length > 0) await setWg(name, words)
    const lines = linesToMend(device, there)
    const first = there.up ? [] : [`link set dev ${name} ${NO_LINK_LOCAL}`]
    if (lines.length > 0) await setUpLink([...first, ...lines])
    return link === undefined || words.length + lines.length > 0
  } catch (cause) {
    if (cause instanceof BackendError) throw cause
    const why = cause instanceof CommandError ? complaintOf(cause) : String(cause)
    throw new BackendError('ERR_DEVICE', `cannot set up ${name}: ${why}`, { cause })
  }
}

function complaintOf(error: CommandError): string {
  return error.stderr.trim() || error.message
}

function wordsToMend(
  { key, listenPort }: WireguardDevice,
  { publicKey, listenPort: port }: WgDevice,
): string[] {
  return [
    ...(port === listenPort ? [] : ['listen-port', String(listenPort)]),
    ...(publicKey === key.publicKey ? [] : ['private-key', key.file]),
  ]
}

/** A device of flannel's is taken over; another's is left alone. */
function refuseForeign({ name, alias }: WireguardDevice, link: Link): void {
  if (implementationOf(link) === undefined)
    throw new BackendError(
      'ERR_DEVICE',
      `there is a device ${name} of kind ${link.kind ?? 'none'}; remove it: ip link delete ${name}`,
    )
  if (link.alias !== undefined && link.alias !== alias)
    throw new BackendError(
      'ERR_DEVICE',
      `the device ${name} is that of ${link.alias}; a host has one network of type wireguard`,
    )
}

async function create(name: string): Promise<void> {
  try {
    await batch([`link add ${name} type wireguard`])
  } catch (error) {
    const isUnknown = /Unknown device type|not supported/.test((error as Error).message)
    if (!isUnknown) throw error
    await startInUserSpace(name)
  }
}

/**
 * It goes into the background and ends with its device. So it outlives this
 * daemon, and one that dies is started again when its device is missed.
 */
async function startInUserSpace(name: string): Promise<void> {
  try {
    await run('wireguard-go', [name], { isDetached: true })
  } catch (error) {
    if (!(error instanceof CommandError) || error.code !== 'ENOENT') throw error
    const missing = new NotThereError('wireguard-go', error)
    throw new BackendError(
      'ERR_BACKEND_UNSUPPORTED',
      `this kernel has no WireGuard (modprobe wireguard), and ${missing.message}; or set Backend.Type to vxlan`,
      { cause: error },
    )
  }
}
