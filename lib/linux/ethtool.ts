import * as libc from './libc.js'

// include/uapi/linux/sockios.h, ethtool.h, socket.h
const SIOCETHTOOL = 0x8946
const ETHTOOL_GTXCSUM = 0x16
const ETHTOOL_STXCSUM = 0x17
const AF_INET = 2
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000

/** struct ifreq: a name of 16 bytes, then a pointer to a struct ethtool_value. */
const IFREQ = 40
const IFNAMSIZ = 16

/**
 * Whether a device leaves checksums of what it sends to the hardware, as
 * `ethtool -k` shows it. Throws SystemError.
 */
export function hasTxChecksum(device: string): boolean {
  return callEthtool(device, ETHTOOL_GTXCSUM, 0) !== 0
}

/** `ethtool -K DEVICE tx on|off`. Throws SystemError. */
export function setTxChecksum(device: string, isOn: boolean): void {
  callEthtool(device, ETHTOOL_STXCSUM, isOn ? 1 : 0)
}

/** Sends a struct ethtool_value: command and number, 4 bytes each. Returns the number that comes back. */
function callEthtool(device: string, command: number, data: number): number {
  const value = Buffer.alloc(8)
  value.writeUInt32LE(command)
  value.writeUInt32LE(data, 4)
  const request = Buffer.alloc(IFREQ)
  request.write(device, 0, IFNAMSIZ - 1, 'latin1')
  request.writeBigUInt64LE(BigInt(libc.addressOf(value)), IFNAMSIZ)
  const fd = libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
  if (fd < 0) throw libc.lastError('open a socket')
  const result = libc.ioctl(fd, SIOCETHTOOL, request)
  const error = result < 0 ? libc.lastError(`ethtool ${device}`) : undefined
  libc.close(fd)
  if (error !== undefined) throw error
  return value.readUInt32LE(4)
}
