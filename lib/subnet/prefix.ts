import { Address4, Address6 } from 'ip-address'

/** Address family: the number is the IP version. */
export type Family = 4 | 6

export const FAMILIES: readonly Family[] = [4, 6]

/** Bits in an address of the family. */
export const ADDRESS_BITS = { 4: 32, 6: 128 } as const

export interface Address {
  readonly family: Family
  readonly value: bigint
}

/** An address range with its host bits cleared: `10.5.72.0/24`. */
export interface Prefix {
  readonly family: Family
  readonly network: bigint
  readonly length: number
}

/** Reads an IPv4 or IPv6 address without a length or zone. Throws SyntaxError. */
export function parseAddress(text: string): Address {
  const parsed = parseWith(text, 'address')
  if (text.includes('/') || text.includes('%')) {
    throw new SyntaxError(`${JSON.stringify(text)} is not an IP address`)
  }
  return { family: parsed.family, value: parsed.value }
}

/** Reads `address/length` and clears the host bits, as Go's net.ParseCIDR does. Throws SyntaxError. */
export function parsePrefix(text: string): Prefix {
  const { family, network, length } = parseInterfaceAddress(text)
  return { family, network, length }
}

/** An address as interfaces carry it, with the prefix it lies in: `10.5.72.1/24`. */
export interface InterfaceAddress extends Prefix {
  readonly address: Address
}

/** Reads `address/length`, keeping the address itself. Throws SyntaxError. */
export function parseInterfaceAddress(text: string): InterfaceAddress {
  if (!/\/\d{1,3}$/.test(text) || text.includes('%')) {
    throw new SyntaxError(
      `${JSON.stringify(text)} is not an address range such as 10.5.0.0/16`,
    )
  }
  const { family, value, length } = parseWith(text, 'address range')
  const network = value & networkMask(family, length)
  return { family, network, length, address: { family, value } }
}

function parseWith(
  text: string,
  what: string,
): { family: Family; value: bigint; length: number } {
  try {
    const family = text.includes(':') ? 6 : 4
    const parsed = family === 6 ? new Address6(text) : new Address4(text)
    return { family, value: parsed.bigInt(), length: parsed.subnetMask }
  } catch (cause) {
    throw new SyntaxError(`${JSON.stringify(text)} is not an IP ${what}`, { cause })
  }
}

export function formatAddress({ family, value }: Address): string {
  if (family === 6) return Address6.fromBigInt(value).correctForm()
  // Written here: thousands of leases are compared by their text.
  const bits = Number(value)
  return `${bits >>> 24}.${(bits >>> 16) & 255}.${(bits >>> 8) & 255}.${bits & 255}`
}

export function formatPrefix(prefix: Prefix): string {
  return `${formatAddress(baseAddress(prefix))}/${prefix.length}`
}

/** The mask with `length` leading ones; `/0` is 0. */
export function networkMask(family: Family, length: number): bigint {
  const bits = ADDRESS_BITS[family]
  const ones = (1n << BigInt(length)) - 1n
  return ones << BigInt(bits - length)
}

/** How many addresses the prefix holds. */
export function prefixSize({
  family,
  length,
}: Pick<Prefix, 'family' | 'length'>): bigint {
  return 1n << BigInt(ADDRESS_BITS[family] - length)
}

/** The address with all host bits zero. */
export function baseAddress({ family, network }: Prefix): Address {
  return { family, value: network }
}

/** The first address a host may carry, base + 1: flannel's bridge address. */
export function firstHostAddress({ family, network }: Prefix): Address {
  return { family, value: network + 1n }
}

export function containsAddress(prefix: Prefix, address: Address): boolean {
  return (
    prefix.family === address.family &&
    (address.value & networkMask(prefix.family, prefix.length)) === prefix.network
  )
}

/** True when every address of `inner` lies in `outer`. */
export function isAmong(ranges: readonly Prefix[], address: Address): boolean {
  return ranges.some(range => containsAddress(range, address))
}

export function containsPrefix(outer: Prefix, inner: Prefix): boolean {
  return outer.length <= inner.length && containsAddress(outer, baseAddress(inner))
}

/** True when the two share an address: prefixes nest or are disjoint. */
export function overlaps(a: Prefix, b: Prefix): boolean {
  return containsPrefix(a, b) || containsPrefix(b, a)
}

export function samePrefix(a: Prefix | undefined, b: Prefix | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  return a.family === b.family && a.network === b.network && a.length === b.length
}

export function sameAddress(a: Address | undefined, b: Address | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  return a.family === b.family && a.value === b.value
}

/** An address as packets have it: 4 or 16 bytes in network order. */
export function addressBytes({ family, value }: Address): Uint8Array {
  const bits = ADDRESS_BITS[family]
  return Uint8Array.from({ length: bits / 8 }, (_, index) =>
    Number((value >> BigInt(bits - 8 * (index + 1))) & 0xffn),
  )
}

/** The address of 4 or 16 bytes in network order. */
export function addressFromBytes(bytes: Uint8Array): Address {
  const value = bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n)
  return { family: bytes.length === 4 ? 4 : 6, value }
}

/** An address with a port as people write it. */
export function formatEndpoint(address: Address, port: number): string {
  const text = formatAddress(address)
  return address.family === 4 ? `${text}:${port}` : `[${text}]:${port}`
}
