import { rmSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import * as libc from '../../linux/libc.js'
import { type Tun, openTun } from '../../linux/tun.js'
import { openUdpSocket } from '../../linux/udp-socket.js'
import { listenUnix } from '../../linux/unix-socket.js'
import { SOCKADDR, writeSockaddr } from '../../encap/forwarding-table.js'
import { addressBytes, formatEndpoint } from '../../subnet/prefix.js'
import type { BackendContext } from '../backend.js'
import { BackendError } from '../errors.js'
import type { UdpContext } from '../udp.js'

/** flannel's device name; %d is the first free number. */
const DEVICE_PATTERN = 'flannel%d'

/** Names that a device may carry into our commands and files. */
export const DEVICE_NAME = /^[a-zA-Z0-9._-]{1,15}$/

/** Descriptors that a path needs and a successor may be given. */
export interface Descriptors {
  readonly tun: Tun
  readonly socket: number
  readonly listener: number
}

/** Where a path listens for its daemon. */
export function socketPath({ runDir }: Pick<BackendContext, 'runDir'>): string {
  return `${runDir}/path.sock`
}

/** Opens the device and both sockets, or none of them. Throws BackendError. */
export async function openDescriptors(context: UdpContext): Promise<Descriptors> {
  const opened: number[] = []
  try {
    const socket = openSocket(context)
    opened.push(socket)
    const tun = await openDevice(context)
    opened.push(tun.fd)
    rmSync(socketPath(context), { force: true })
    const listener = listenUnix(socketPath(context))
    return { tun, socket, listener }
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

export function closeDescriptors({ tun, socket, listener }: Descriptors): void {
  for (const fd of [tun.fd, socket, listener]) libc.close(fd)
}
