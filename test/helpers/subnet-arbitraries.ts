import {
  ADDRESS_BITS,
  type Address,
  type Family,
  type Prefix,
  networkMask,
} from '../../lib/subnet/prefix.js'
import type { Subnet } from '../../lib/subnet/subnet-key.js'
import { fc } from './property.js'

export const anyFamily: fc.Arbitrary<Family> = fc.constantFrom(4, 6)

/** Any address, the first and the last of the family among them. */
export function addressOf(family: Family): fc.Arbitrary<Address> {
  const max = (1n << BigInt(ADDRESS_BITS[family])) - 1n
  return fc.bigInt({ min: 0n, max }).map(value => ({ family, value }))
}

export const anyAddress = anyFamily.chain(addressOf)

export function prefixOf(
  family: Family,
  limits: { readonly shortest?: number; readonly longest?: number } = {},
): fc.Arbitrary<Prefix> {
  return fc
    .tuple(
      addressOf(family),
      fc.integer({
        min: limits.shortest ?? 0,
        max: limits.longest ?? ADDRESS_BITS[family],
      }),
    )
    .map(([{ value }, length]) => ({
      family,
      network: value & networkMask(family, length),
      length,
    }))
}

export const anyPrefix = anyFamily.chain(family => prefixOf(family))

/** What flannel's keys can name: no /0, no /32, no /128. */
export const anySubnet: fc.Arbitrary<Subnet> = fc
  .tuple(
    fc.option(prefixOf(4, { shortest: 1, longest: 31 }), { nil: undefined }),
    fc.option(prefixOf(6, { shortest: 1, longest: 127 }), { nil: undefined }),
  )
  .filter(([v4, v6]) => v4 !== undefined || v6 !== undefined)
  .map(([v4, v6]) => ({ ...(v4 && { 4: v4 }), ...(v6 && { 6: v6 }) }))
