import { rmSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import {
  type PathKnowledge,
  PathMessage,
  decodeKnowledge,
  encodeFrame,
} from '../../encap/path-control.js'
import * as libc from '../../linux/libc.js'
import { takeMemoryFile } from '../../linux/memory-file.js'
import { type Tun, openTun } from '../../linux/tun.js'
import { openUdpSocket } from '../../linux/udp-socket.js'
import {
  connectUnix,
  listenUnix,
  receiveDescriptors,
  sendAll,
} from '../../linux/unix-socket.js'
import { SOCKADDR, writeSockaddr } from '../../encap/forwarding-table.js'
import { addressBytes, formatEndpoint } from '../../subnet/prefix.js'
import type { BackendContext } from '../backend.js'
import { BackendError } from '../errors.js'
import type { UdpContext } from '../udp.js'

/** flannel's device name; %d is the first free number. */
const DEVICE_PATTERN = 'flannel%d'

/** Names that a device may carry into our commands and files. */
export const DEVICE_NAME = /^[a-zA-Z0-9._-]{1,15}$/

/** Descriptors that a path needs and its successor is given. */
export interface Descriptors {
  readonly tun: Tun
  readonly socket: number
}

/** Where a path listens for its daemon. */
export function socketPath({ runDir }: Pick<BackendContext, 'runDir'>): string {
  return `${runDir}/path.sock`
}

/** Opens the device and the socket, or neither. Throws BackendError. */
export async function openDescriptors(context: UdpContext): Promise<Descriptors> {
  const opened: number[] = []
  try {
    const socket = openSocket(context)
    opened.push(socket)
    const tun = await openDevice(context)
    return { tun, socket }
  } catch (error) {
    for (const fd of opened) libc.close(fd)
    throw error
  }
}

function openSocket({ address, port }: UdpContext): number {
  const name = new Uint8Array(SOCKADDR)
  writeSockaddr(name, 0, addressBytes(address), port)
  try {
    return openUdpSocket(name)
  } catch (cause) {
    if (!(cause instanceof libc.SystemError)) throw cause
    const hint =
      cause.code === 'EADDRINUSE'
        ? '; another flanneld or program uses it (ss -ulpn shows which): stop it, or set another Backend.Port on all hosts'
        : ''
    const message = `cannot listen on UDP ${formatEndpoint(address, port)}: ${cause.message}${hint}`
    throw new BackendError('ERR_SOCKET', message, { cause })
  }
}

/** The name that we had last, so that rules and graphs of operators stay right; else the first free one. */
async function openDevice({ stateDir }: UdpContext): Promise<Tun> {
  const memory = `${stateDir}/device`
  const last = (await readFile(memory, 'utf8').catch(() => '')).trim()
  const tun =
    (DEVICE_NAME.test(last) ? tryOpenTun(last) : undefined) ?? tryOpenTun(DEVICE_PATTERN)
  if (tun === undefined)
    throw new BackendError('ERR_DEVICE', `no free device name ${DEVICE_PATTERN}`)
  if (tun.name !== last) await writeFile(memory, `${tun.name}\n`)
  return tun
}

function tryOpenTun(name: string): Tun | undefined {
  try {
    return openTun(name)
  } catch (cause) {
    if (!(cause instanceof libc.SystemError)) throw cause
    if (cause.code === 'EBUSY') return undefined
    const hint =
      cause.code === 'ENOENT' || cause.code === 'ENODEV'
        ? '; the udp backend needs the tun module: modprobe tun, or choose another Backend.Type'
        : cause.code === 'EPERM' || cause.code === 'EACCES'
          ? '; run flanneld as root or with CAP_NET_ADMIN'
          : ''
    throw new BackendError('ERR_DEVICE', `${cause.message}${hint}`, { cause })
  }
}

export function closeDescriptors({ tun, socket }: Descriptors): void {
  for (const fd of [tun.fd, socket]) libc.close(fd)
}

/** A control socket that no daemon looks for yet: it is moved to `socketPath` when the path behind it answers. */
export function openDoor(context: Pick<BackendContext, 'runDir'>): {
  readonly path: string
  readonly listener: number
} {
  const path = `${context.runDir}/next.sock`
  rmSync(path, { force: true })
  return { path, listener: listenUnix(path) }
}

/** A path answers at once, unless the machine is very busy. */
const HANDOVER_DEADLINE_MS = 3000
const HANDOVER_POLL_MS = 2

/** What a running path has and knows; it goes on. */
export interface Handover {
  readonly descriptors: Descriptors
  readonly knowledge: PathKnowledge
}

/** Asks a running path for what it has: its descriptors are ours as well then. Throws BackendError. */
export async function askForHandover(
  context: Pick<BackendContext, 'runDir' | 'clock'>,
  device: string,
): Promise<Handover> {
  const { clock } = context
  let connection: number | undefined
  try {
    connection = connectUnix(socketPath(context))
    sendAll(connection, encodeFrame(PathMessage.handover, new Uint8Array(0)))
    const deadline = clock.now() + HANDOVER_DEADLINE_MS
    while (clock.now() < deadline) {
      const [tun, socket, file] = receiveDescriptors(connection, 3) ?? []
      if (tun !== undefined && socket !== undefined && file !== undefined)
        return {
          descriptors: { tun: { fd: tun, name: device }, socket },
          knowledge: decodeKnowledge(takeMemoryFile(file)),
        }
      await clock.sleep(HANDOVER_POLL_MS)
    }
  } catch (cause) {
    if (!(cause instanceof libc.SystemError || cause instanceof RangeError)) throw cause
    throw new BackendError('ERR_PATH', cause.message, { cause })
  } finally {
    if (connection !== undefined) libc.close(connection)
  }
  throw new BackendError('ERR_PATH', 'the packet path does not hand over its descriptors')
}
