/**
 * The packet path: a program of its own, so that it can be confined, measured,
 * replaced while it runs, and live on while the daemon restarts.
 *
 * It is given four descriptors and nothing else: a queue of the TUN device, the
 * UDP socket that datagrams come to, the listening control socket, and the UDP
 * socket that they are sent from, which may be the other one. A successor may read the same ones
 * while it takes over. It gives up root before it looks at
 * a packet, and then blocks in poll(2) for the rest of its life: no timer, no
 * promise and no signal handler of Node's runs any more.
 *
 * Its argument is the label by which a daemon recognises it.
 */
import { allocatePackets } from '../../encap/packet-memory.js'
import * as libc from '../../linux/libc.js'
import { dropPrivileges } from '../../linux/privileges.js'
import { enableOffloads } from '../../linux/tun.js'
import { enableUdpGro, hasUdpSegment, routeMtu } from '../../linux/udp-socket.js'
import { claimListener } from '../../linux/unix-socket.js'
import { ControlServer } from './control-server.js'
import { LOOP_MEMORY, PacketLoop } from './packet-loop.js'
import { PATH_TITLE } from './path-title.js'

const TUN = 3
const SOCKET = 4
const LISTENER = 5
const SENDER = 6

// struct pollfd: descriptor (4 bytes), events (2), revents (2).
const POLLFD = 8
const REVENTS = 6
const POLLIN = 0x0001
const POLLERR = 0x0008

/** How long a path without a daemon and without a permit waits for one, in ms. */
const ORPHAN_GRACE_MS = 10_000

/** Wakes an idle path, so that one whose permit has ended notices. */
const IDLE_MS = 1000

function main(label: string): void {
  process.title = PATH_TITLE
  enableUdpGro(SOCKET)
  const loop = new PacketLoop({
    memory: allocatePackets(LOOP_MEMORY),
    tun: TUN,
    socket: SOCKET,
    sender: SENDER,
    offloads: enableOffloads(TUN),
    hasSegments: hasUdpSegment(SENDER),
    calls: libc,
    routeMtu,
  })
  const control = new ControlServer({
    listener: LISTENER,
    loop,
    label,
    descriptors: [TUN, SOCKET, SENDER],
  })
  claimListener(LISTENER)
  const fds = Buffer.alloc(4 * POLLFD)
  watch(fds, 2, LISTENER)
  const orphanAt = libc.bootTimeMs() + ORPHAN_GRACE_MS
  dropPrivileges()

  while (!control.stopping) {
    // What comes before the remotes are known is left for the path before, or waits.
    watch(fds, 0, loop.isReady ? TUN : -1)
    watch(fds, 1, loop.isReady ? SOCKET : -1)
    watch(fds, 3, control.connection)
    libc.poll(fds, 4, IDLE_MS)
    // Somebody has deleted the device: whoever starts the next path opens another.
    if (isFailed(fds, 0)) break
    const nowMs = libc.bootTimeMs()
    if (isReady(fds, 0)) loop.fromTun(nowMs)
    if (isReady(fds, 1)) loop.fromUnderlay(nowMs)
    if (isReady(fds, 2)) control.accept()
    else if (isReady(fds, 3)) control.serve()
    const orphaned = control.connection < 0 && nowMs > orphanAt && !loop.permitted(nowMs)
    if (orphaned) break
  }
}

function watch(fds: Buffer, index: number, fd: number): void {
  fds.writeInt32LE(fd, index * POLLFD)
  fds.writeInt16LE(POLLIN, index * POLLFD + 4)
}

/** Readable, hung up or failed: each is for the reader to find out. */
function isReady(fds: Buffer, index: number): boolean {
  return fds.readInt16LE(index * POLLFD + REVENTS) !== 0
}

function isFailed(fds: Buffer, index: number): boolean {
  return (fds.readInt16LE(index * POLLFD + REVENTS) & POLLERR) !== 0
}

const [label = ''] = process.argv.slice(2)
main(label)
// At once: Node's own way winds up a loop whose ring it may not use any more.
libc.exitNow(0)
