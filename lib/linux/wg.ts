/**
 * WireGuard devices through wg(8), which speaks to the kernel's and to a user
 * space implementation's alike.
 */
import { CommandError, NotThereError, type RunOptions, run } from './run.js'
import type { FailedLine } from './ip-batch.js'

/** A key as wg(8) writes it: 32 bytes in base64, so that the last digit has two bits to spare. */
export const WG_KEY = /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw480]=$/

/** Peers that are told of in one command line. */
const PEERS_AT_ONCE = 500

export interface WgDevice {
  /** Undefined before it has a private key. */
  readonly publicKey: string | undefined
  readonly listenPort: number
  readonly peers: readonly WgPeer[]
}

export interface WgPeer {
  readonly publicKey: string
  /** A secret. */
  readonly presharedKey: string | undefined
  /** `192.0.2.1:51820`; undefined before it is known. */
  readonly endpoint: string | undefined
  readonly allowedIps: readonly string[]
  /** Milliseconds since 1970; undefined before the first. */
  readonly handshakeAt: number | undefined
  readonly receivedBytes: number
  readonly sentBytes: number
  /** Seconds; 0 for none. */
  readonly keepalive: number
}

/** A device with its peers. Throws CommandError when there is none of WireGuard by that name. */
export async function showWg(device: string): Promise<WgDevice> {
  return parseWgDump(await wg(['show', device, 'dump']))
}

/** The peers of a device; none when there is no such device. Throws CommandError. */
export async function listWgPeers(device: string): Promise<readonly WgPeer[]> {
  try {
    return (await showWg(device)).peers
  } catch (error) {
    const isGone =
      error instanceof CommandError && error.stderr.includes('Unable to access interface')
    if (isGone) return []
    throw error
  }
}

/** Reads what `wg show DEVICE dump` prints. Throws SyntaxError. */
export function parseWgDump(text: string): WgDevice {
  const [first = '', ...lines] = text.split('\n').filter(line => line !== '')
  const [, publicKey = '', port = ''] = first.split('\t')
  if (!/^\d+$/.test(port)) throw new SyntaxError('cannot read what wg(8) printed')
  return {
    publicKey: WG_KEY.test(publicKey) ? publicKey : undefined,
    listenPort: Number(port),
    peers: lines.map(readPeer),
  }
}

function readPeer(line: string): WgPeer {
  const [key = '', shared, endpoint, allowed = '', handshake, rx, tx, keepalive] =
    line.split('\t')
  if (!WG_KEY.test(key) || keepalive === undefined)
    throw new SyntaxError('cannot read what wg(8) printed of a peer')
  const given = (value: string | undefined): string | undefined =>
    value === '(none)' ? undefined : value
  const seconds = Number(handshake)
  return {
    publicKey: key,
    presharedKey: given(shared),
    endpoint: given(endpoint),
    allowedIps: given(allowed)?.split(',') ?? [],
    handshakeAt: seconds > 0 ? seconds * 1000 : undefined,
    receivedBytes: Number(rx),
    sentBytes: Number(tx),
    keepalive: keepalive === 'off' ? 0 : Number(keepalive),
  }
}

/** `wg set`. @param words what follows the device. Throws CommandError. */
export async function setWg(device: string, words: readonly string[]): Promise<void> {
  await wg(['set', device, ...words])
}

/**
 * Runs lines of `wg set` that tell of peers, `DEVICE peer KEY …`: those of one
 * device together, and each by itself when that fails.
 */
export async function forceWg(lines: readonly string[]): Promise<FailedLine[]> {
  const failed: FailedLine[] = []
  for (const [device, peers] of byDevice(lines))
    for (let start = 0; start < peers.length; start += PEERS_AT_ONCE) {
      const chunk = peers.slice(start, start + PEERS_AT_ONCE)
      const words = chunk.flatMap(peer => peer.split(' '))
      const isDone = await setWg(device, words).then(
        () => true,
        () => false,
      )
      if (!isDone) failed.push(...(await setEach(device, chunk)))
    }
  return failed
}

async function setEach(device: string, peers: readonly string[]): Promise<FailedLine[]> {
  const failed: FailedLine[] = []
  for (const peer of peers)
    try {
      await setWg(device, peer.split(' '))
    } catch (error) {
      if (!(error instanceof CommandError) || error.exitCode === null) throw error
      failed.push({ line: `wg set ${device} ${peer}`, why: error.stderr.trim() })
    }
  return failed
}

function byDevice(lines: readonly string[]): ReadonlyMap<string, string[]> {
  const found = new Map<string, string[]>()
  for (const line of lines) {
    const space = line.indexOf(' ')
    const device = line.slice(0, space)
    const peers = found.get(device) ?? []
    peers.push(line.slice(space + 1))
    found.set(device, peers)
  }
  return found
}

async function wg(args: readonly string[], options?: RunOptions): Promise<string> {
  try {
    return await run('wg', args, options)
  } catch (error) {
    if (error instanceof CommandError && error.code === 'ENOENT')
      throw new NotThereError('wg', error, 'wireguard-tools')
    throw error
  }
}
