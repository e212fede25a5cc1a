/**
 * TCP (RFC 9293 section 3.1) and UDP (RFC 768) headers in byte arrays.
 *
 *   TCP: 0 source port, 2 destination port, 4 sequence number, 8 acknowledgment,
 *        12 data offset (4 bits), 13 flags, 14 window, 16 checksum, 18 urgent
 *   UDP: 0 source port, 2 destination port, 4 length, 6 checksum
 */
export const TCP_HEADER = 20
export const SEQUENCE = 4
export const DATA_OFFSET = 12
export const FLAGS = 13
export const TCP_CHECKSUM = 16

export const FIN = 0x01
export const SYN = 0x02
export const RST = 0x04
export const PSH = 0x08
export const ACK = 0x10
export const URG = 0x20
export const CWR = 0x80

export const UDP_HEADER = 8
export const UDP_LENGTH = 4
export const UDP_CHECKSUM = 6

/** The longest header that packets of ours are cut or joined with: IPv6, or IPv4 without options, and TCP with all options. */
export const MAX_HEADERS = 40 + 60
