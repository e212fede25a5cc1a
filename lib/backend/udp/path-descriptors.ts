import { rmSync } from 'node:fs'
import { readFile, readdir, writeFile } from 'node:fs/promises'
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
  /** That datagrams come to. */
  readonly socket: number
  /** That they are sent from; the same one for the first queue. */
  readonly sender: number
}

/** Which of the queues of a device a path serves, from 0. */
export interface QueueOptions {
  readonly queue: number
  /** The device of the other queues, if it exists. */
  readonly device?: string | undefined
}

/** Where the path of a queue listens for its daemon. */
export function socketPath(
  { runDir }: Pick<BackendContext, 'runDir'>,
  queue: number,
): string {
  return `${runDir}/path${queue === 0 ? '' : `-${queue}`}.sock`
}

/** Queues that an earlier daemon may have left a path for. */
export async function queuesLeft({
  runDir,
}: Pick<BackendContext, 'runDir'>): Promise<number[]> {
  const names = await readdir(runDir)
  return names
    .map(name => /^path(?:-(\d+))?\.sock$/.exec(name))
    .filter(match => match !== null)
    .map(([, queue = '0']) => Number(queue))
}

/** Opens the device and the sockets, or nothing. Throws BackendError. */
export async function openDescriptors(
  context: UdpContext,
  { queue, device }: QueueOptions,
): Promise<Descriptors> {
  const { port, queues } = context
  const opened: number[] = []
  try {
    const socket = openSocket(context, port, queues)
    opened.push(socket)
    const sender = queue === 0 ? socket : openSender(context, queue)
    if (sender !== socket) opened.push(sender)
    const hasQueues = queues > 1
    const tun =
      device === undefined
        ? await openDevice(context, hasQueues)
        : openTun(device, { hasQueues, isFurther: true })
    return { tun, socket, sender }
  } catch (error) {
    for (const fd of opened) libc.close(fd)
    if (error instanceof libc.SystemError)
      throw new BackendError('ERR_DEVICE', error.message, { cause: error })
    throw error
  }
}

/**
 * A queue sends from a port of its own, so that the queues of the remote share
 * what comes from this host: the port behind the one of the queue before.
 */
function openSender(context: UdpContext, queue: number): number {
  try {
    return openSocket(context, context.port + queue)
  } catch (error) {
    if (!(error instanceof BackendError)) throw error
    return openSocket(context, 0)
  }
}

function openSocket({ address }: UdpContext, port: number, sharedBy = 1): number {
  const name = new Uint8Array(SOCKADDR)
  writeSockaddr(name, 0, addressBytes(address), port)
  try {
    return openUdpSocket(name, sharedBy)
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
async function openDevice({ stateDir }: UdpContext, hasQueues: boolean): Promise<Tun> {
  const memory = `${stateDir}/device`
  const last = (await readFile(memory, 'utf8').catch(() => '')).trim()
  const tun =
    (DEVICE_NAME.test(last) ? tryOpenTun(last, hasQueues) : undefined) ??
    tryOpenTun(DEVICE_PATTERN, hasQueues)
  if (tun === undefined)
    throw new BackendError('ERR_DEVICE', `no free device name ${DEVICE_PATTERN}`)
  if (tun.name !== last) await writeFile(memory, `${tun.name}\n`)
  return tun
}

function tryOpenTun(name: string, hasQueues: boolean): Tun | undefined {
  try {
    return openTun(name, { hasQueues })
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

export function closeDescriptors({ tun, socket, sender }: Descriptors): void {
  for (const fd of new Set([tun.fd, socket, sender])) libc.close(fd)
}

/** A control socket that no daemon looks for yet: it is moved to `socketPath` when the path behind it answers. */
export function openDoor(
  { runDir }: Pick<BackendContext, 'runDir'>,
  queue: number,
): {
  readonly path: string
  readonly listener: number
} {
  const path = `${runDir}/next-${queue}.sock`
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
  queue: number,
  device: string,
): Promise<Handover> {
  const { clock } = context
  let connection: number | undefined
  try {
    connection = connectUnix(socketPath(context, queue))
    sendAll(connection, encodeFrame(PathMessage.handover, new Uint8Array(0)))
    const deadline = clock.now() + HANDOVER_DEADLINE_MS
    while (clock.now() < deadline) {
      const [tun, socket, sender, file] = receiveDescriptors(connection, 4) ?? []
      if (
        tun !== undefined &&
        socket !== undefined &&
        sender !== undefined &&
        file !== undefined
      )
        return {
          descriptors: { tun: { fd: tun, name: device }, socket, sender },
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
