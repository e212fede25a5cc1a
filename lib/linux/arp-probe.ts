import * as libc from './libc.js'

/** linux/if_packet.h, if_ether.h, if_arp.h; poll(2). */
const AF_PACKET = 17
const SOCK_DGRAM = 2
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const ETH_P_ARP = 0x0806
const ETH_P_IP = 0x0800
const ARPHRD_ETHER = 1
const ARP_REQUEST = 1
const POLLIN = 1

const MAC_BYTES = 6
const ARP_BYTES = 28
const SOCKADDR_LL_BYTES = 20

/** A host of one link answers within milliseconds. */
const WAIT_MS = 250
const PROBES = 2

/** Where the fields of an ARP packet for IPv4 on Ethernet begin (RFC 826). */
const FIELD = { senderMac: 8, senderIp: 14, targetIp: 24 } as const

export interface ArpProbe {
  readonly ifindex: number
  /** Our own MAC address on that interface: 02:00:00:00:00:01. */
  readonly mac: string
  /** Those of all interfaces of this host, which may answer for each other. */
  readonly ownMacs: ReadonlySet<string>
  /** Four bytes. */
  readonly address: Uint8Array
}

/**
 * Asks who else on a link has an IPv4 address of ours (RFC 5227: our packets name
 * no sender, so nobody's cache changes). Blocks for up to a second.
 *
 * @returns the MAC address of the other host; undefined when nobody answers.
 * Throws SystemError without CAP_NET_RAW.
 */
export function findAddressRival({
  ifindex,
  mac,
  ownMacs,
  address,
}: ArpProbe): string | undefined {
  const type = SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC
  const fd = libc.socket(AF_PACKET, type, swap16(ETH_P_ARP))
  if (fd < 0) throw libc.lastError('a socket for ARP')
  try {
    const broadcast = linkAddress(ifindex)
    if (libc.bind(fd, broadcast, broadcast.length) < 0)
      throw libc.lastError('bind of a socket for ARP')
    const request = arpRequest(mac, address)
    for (let probe = 0; probe < PROBES; probe++) {
      if (libc.sendto(fd, request, request.length, 0, broadcast, broadcast.length) < 0)
        throw libc.lastError('an ARP request')
      const rival = waitForAnswer(fd, ownMacs, address)
      if (rival !== undefined) return rival
    }
    return undefined
  } finally {
    libc.close(fd)
  }
}

function waitForAnswer(
  fd: number,
  ownMacs: ReadonlySet<string>,
  address: Uint8Array,
): string | undefined {
  const deadline = performance.now() + WAIT_MS
  const bytes = Buffer.alloc(ARP_BYTES)
  const wanted = Buffer.alloc(8)
  for (;;) {
    const left = Math.ceil(deadline - performance.now())
    wanted.writeInt32LE(fd, 0)
    wanted.writeUInt32LE(POLLIN, 4)
    if (left <= 0 || libc.poll(wanted, 1, left) <= 0) return undefined
    if (libc.read(fd, bytes, bytes.length) < ARP_BYTES) continue
    const sender = bytes.subarray(FIELD.senderIp, FIELD.senderIp + 4)
    const from = formatMac(bytes.subarray(FIELD.senderMac, FIELD.senderMac + MAC_BYTES))
    if (sender.equals(address) && !ownMacs.has(from)) return from
  }
}

function linkAddress(ifindex: number): Buffer {
  const address = Buffer.alloc(SOCKADDR_LL_BYTES)
  address.writeUInt16LE(AF_PACKET, 0)
  address.writeUInt16BE(ETH_P_ARP, 2)
  address.writeInt32LE(ifindex, 4)
  address.writeUInt8(MAC_BYTES, 11)
  address.fill(0xff, 12, 12 + MAC_BYTES)
  return address
}

function arpRequest(mac: string, address: Uint8Array): Buffer {
  const packet = Buffer.alloc(ARP_BYTES)
  packet.writeUInt16BE(ARPHRD_ETHER, 0)
  packet.writeUInt16BE(ETH_P_IP, 2)
  packet.writeUInt8(MAC_BYTES, 4)
  packet.writeUInt8(4, 5)
  packet.writeUInt16BE(ARP_REQUEST, 6)
  packet.set(Buffer.from(mac.replaceAll(':', ''), 'hex'), FIELD.senderMac)
  packet.set(address, FIELD.targetIp)
  return packet
}

function formatMac(bytes: Buffer): string {
  return bytes.toString('hex').replace(/..(?=.)/g, '$&:')
}

/** A number as socket(2) wants it: in network order. */
function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >> 8)
}
