/**
 * What the kernel is to have, object by object. What is wanted and what is found
 * are made by the same constructors, so that two that mean the same are equal.
 */
import type { Family } from '../../subnet/prefix.js'
import { LAST_METRIC, ROUTE_PROTOCOL } from '../route-protocol.js'

/** ip(8), bridge(8) and wg(8). */
export type Program = 'ip' | 'bridge' | 'wg'

export interface KernelObject {
  /** Names it among all objects of its host. */
  readonly key: string
  /** What must be so about it. */
  readonly spec: string
  /** In what order objects are made: those of a higher rank build on those of a lower. */
  readonly rank: number
  readonly program: Program
  /** Lines of the program that make or correct it. Those that delete may fail. */
  readonly put: readonly string[]
  /** The line that takes it away. */
  readonly remove: string
}

export type KernelObjects = ReadonlyMap<string, KernelObject>

// Of a large network there are tens of thousands, and lines of few are ever needed.

/** A packet to `mac` leaves a VXLAN device for that address. */
export class FdbEntry implements KernelObject {
  readonly rank = 0
  readonly program = 'bridge'
  readonly key: string
  readonly spec: string
  readonly #device: string
  readonly #mac: string

  constructor(device: string, mac: string, destination: string) {
    this.#device = device
    this.#mac = mac
    this.key = `fdb ${device} ${mac}`
    this.spec = `dst ${destination}`
  }

  get put(): readonly string[] {
    return [`fdb replace ${this.#line} permanent`]
  }

  get remove(): string {
    return `fdb delete ${this.#line}`
  }

  get #line(): string {
    return `${this.#mac} dev ${this.#device} ${this.spec} self`
  }
}

export class Neighbour implements KernelObject {
  readonly rank = 1
  readonly program = 'ip'
  readonly key: string
  readonly spec: string
  readonly #device: string
  readonly #address: string

  constructor(device: string, address: string, mac: string) {
    this.#device = device
    this.#address = address
    this.key = `neighbour ${device} ${address}`
    this.spec = `lladdr ${mac}`
  }

  get put(): readonly string[] {
    return [
      `neighbour replace ${this.#address} ${this.spec} dev ${this.#device} nud permanent`,
    ]
  }

  get remove(): string {
    return `neighbour delete ${this.#address} dev ${this.#device}`
  }
}

/** Of a route of IPv6 that names none (IP6_RT_PRIO_USER). */
const METRIC6 = 1024

export interface RouteFields {
  readonly destination: string
  readonly gateway: string
  readonly device: string
  /** The gateway is taken to be on the link, whatever the routes say. */
  readonly isOnLink: boolean
}

export class RouteByGateway implements KernelObject {
  readonly rank = 2
  readonly program = 'ip'
  readonly key: string
  readonly spec: string
  readonly #destination: string

  constructor({ destination, gateway, device, isOnLink }: RouteFields) {
    this.key = `route ${destination}`
    this.spec = `via ${gateway} dev ${device}${isOnLink ? ' onlink' : ''}`
    this.#destination = destination
  }

  get put(): readonly string[] {
    const { spec } = this
    const destination = this.#destination
    const line = `route replace ${destination} ${spec} proto ${ROUTE_PROTOCOL}`
    // IPv6 refuses a gateway that a route of before leads to by another device.
    return destination.includes(':') && spec.endsWith(' onlink')
      ? [`route delete ${destination} metric ${METRIC6}`, line]
      : [line]
  }

  get remove(): string {
    return `route delete ${this.#destination} proto ${ROUTE_PROTOCOL}`
  }
}

/** A route of our Network into a device of ours. */
export class RouteToDevice implements KernelObject {
  readonly rank = 2
  readonly program = 'ip'
  readonly key: string
  readonly spec: string
  readonly #line: string

  constructor(family: Family, destination: string, device: string) {
    this.key = `route ${destination}`
    this.spec = `dev ${device}`
    const scope = family === 4 ? ' scope global' : ''
    this.#line = `${destination} ${this.spec} proto ${ROUTE_PROTOCOL}${scope}`
  }

  get put(): readonly string[] {
    return [`route replace ${this.#line}`]
  }

  get remove(): string {
    return `route delete ${this.#line}`
  }
}

/**
 * Packets to our Network that no device of ours takes go nowhere, and their
 * senders hear so. Without it they would leave in the clear while a device that
 * encrypts is gone.
 */
export class RouteToNowhere implements KernelObject {
  readonly rank = 0
  readonly program = 'ip'
  readonly key: string
  readonly spec = `unreachable metric ${LAST_METRIC}`
  readonly #line: string

  constructor(destination: string) {
    this.key = `refusal ${destination}`
    this.#line = `unreachable ${destination} metric ${LAST_METRIC} proto ${ROUTE_PROTOCOL}`
  }

  get put(): readonly string[] {
    return [`route replace ${this.#line}`]
  }

  get remove(): string {
    return `route delete ${this.#line}`
  }
}

/** The destination of a route's key; undefined for that of something else. */
export function destinationOf(key: string): string | undefined {
  return key.startsWith('route ') ? key.slice('route '.length) : undefined
}

export function byKey(objects: readonly KernelObject[]): KernelObjects {
  return new Map(objects.map(object => [object.key, object]))
}

/** What makes the kernel have what is wanted: first what goes, then what comes. */
export interface Changes {
  readonly removed: readonly KernelObject[]
  readonly put: readonly KernelObject[]
}

export function changesBetween(found: KernelObjects, wanted: KernelObjects): Changes {
  const removed = [...found.values()].filter(({ key }) => !wanted.has(key))
  const put = [...wanted.values()].filter(
    ({ key, spec }) => found.get(key)?.spec !== spec,
  )
  return {
    removed: removed.sort((a, b) => b.rank - a.rank),
    put: put.sort((a, b) => a.rank - b.rank),
  }
}
