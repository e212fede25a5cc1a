/**
 * What the kernel is to have, object by object. What is wanted and what is found
 * are made by the same functions, so that two that mean the same are equal.
 */
import { ROUTE_PROTOCOL } from '../route-protocol.js'

export interface KernelObject {
  /** Names it among all objects of its host. */
  readonly key: string
  /** What must be so about it. */
  readonly spec: string
  /** In what order objects are made: those of a higher rank build on those of a lower. */
  readonly rank: number
  readonly program: 'ip' | 'bridge'
  /** Lines of the program that make or correct it. Those that delete may fail. */
  readonly put: readonly string[]
  /** The line that takes it away. */
  readonly remove: string
}

export type KernelObjects = ReadonlyMap<string, KernelObject>

/** A packet to `mac` leaves a VXLAN device for that address. */
export function fdbEntry(device: string, mac: string, destination: string): KernelObject {
  return {
    key: `fdb ${device} ${mac}`,
    spec: `dst ${destination}`,
    rank: 0,
    program: 'bridge',
    put: [`fdb replace ${mac} dev ${device} dst ${destination} self permanent`],
    remove: `fdb delete ${mac} dev ${device} dst ${destination} self`,
  }
}

export function neighbour(device: string, address: string, mac: string): KernelObject {
  return {
    key: `neighbour ${device} ${address}`,
    spec: `lladdr ${mac}`,
    rank: 1,
    program: 'ip',
    put: [`neighbour replace ${address} lladdr ${mac} dev ${device} nud permanent`],
    remove: `neighbour delete ${address} dev ${device}`,
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

export function route({
  destination,
  gateway,
  device,
  isOnLink,
}: RouteFields): KernelObject {
  const spec = `via ${gateway} dev ${device}${isOnLink ? ' onlink' : ''}`
  return {
    key: `route ${destination}`,
    spec,
    rank: 2,
    program: 'ip',
    // IPv6 refuses a gateway that a route of before leads to by another device.
    put: [
      ...(isOnLink && gateway.includes(':')
        ? [`route delete ${destination} metric ${METRIC6}`]
        : []),
      `route replace ${destination} ${spec} proto ${ROUTE_PROTOCOL}`,
    ],
    remove: `route delete ${destination} proto ${ROUTE_PROTOCOL}`,
  }
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
