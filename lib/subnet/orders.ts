import { isJsonObject } from './go-json.js'
import type { Entry } from './registry.js'
import {
  type Subnet,
  formatSubnet,
  parseSubnetText,
  subnetFromPrefixes,
} from './subnet-key.js'

/**
 * What an operator orders a host to do with its subnet. Deleting the record is
 * no order: a host puts it back.
 *
 *   move    give the subnet back and take another
 *   revoke  give it back and take none, until the order is deleted
 */
export interface Order {
  readonly kind: 'move' | 'revoke'
  /** move: the subnet to take, else any. */
  readonly to?: Subnet
  /** move: the subnet that the host had when it took the order. */
  readonly from?: Subnet
  /** What the operator called the host, for whoever takes the order back: it has no record then. */
  readonly host?: string
  /** `taken`: the host is at it. */
  readonly state: 'open' | 'taken' | 'done' | 'refused'
  /** What the host says about it. */
  readonly answer?: string
}

/** Key prefix of all orders. */
export function ordersPrefix(prefix: string): string {
  return `${prefix}/orders/`
}

export function orderKey(prefix: string, hostId: string): string {
  return `${ordersPrefix(prefix)}${hostId}`
}

const VERSION = 1

export function formatOrder({ kind, to, from, host, state, answer }: Order): string {
  return JSON.stringify({
    version: VERSION,
    kind,
    ...(to && { to: formatSubnet(to) }),
    ...(from && { from: formatSubnet(from) }),
    ...(host !== undefined && { host }),
    state,
    ...(answer !== undefined && { answer }),
  })
}

/** Throws SyntaxError. */
export function parseOrder(text: string): Order {
  const value: unknown = JSON.parse(text)
  if (!isJsonObject(value) || value['version'] !== VERSION) {
    throw new SyntaxError(`not an order of version ${VERSION}`)
  }
  const { kind, to, from, host, state, answer } = value
  if (kind !== 'move' && kind !== 'revoke') throw new SyntaxError('unknown kind of order')
  if (state !== 'open' && state !== 'taken' && state !== 'done' && state !== 'refused')
    throw new SyntaxError('unknown state of an order')
  return {
    kind,
    state,
    ...(typeof to === 'string' && { to: parseSubnet(to) }),
    ...(typeof from === 'string' && { from: parseSubnet(from) }),
    ...(typeof host === 'string' && { host }),
    ...(typeof answer === 'string' && { answer }),
  }
}

/** `10.5.72.0/24`, or both families joined by ` and `. Throws SyntaxError. */
export function parseSubnet(text: string): Subnet {
  return subnetFromPrefixes(parseSubnetText(text))
}

/** An order with the revision that its answer replaces. */
export interface StandingOrder extends Order {
  readonly modRevision: bigint
}

/** The order in an entry; undefined when it cannot be read, which is nobody's order. */
export function readOrder(entry: Entry): StandingOrder | undefined {
  try {
    return { ...parseOrder(entry.value), modRevision: entry.modRevision }
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}
