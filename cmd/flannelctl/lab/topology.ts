import {
  firstHostAddress,
  formatAddress,
  overlaps,
  parseInterfaceAddress,
  parsePrefix,
} from '../../../lib/subnet/prefix.js'

/**
 * The lab, as drawn. Every box is a network namespace of its own, so nothing of
 * it can meet an address, a route or a device of the machine that it runs on.
 *
 *   ┌ NAME-c1 ───┐    ┌ NAME-host1 ────────────────┐    ┌ NAME-underlay ─────┐
 *   │ container  │    │ docker0          flannel0  │    │ br0 192.168.77.1   │
 *   │ eth0 ......│====│ 10.5.x.1 ─ flanneld ─ eth0 │====│ etcd     (a switch │
 *   │ 10.5.x.2   │    │                192.168.77.11    │       for hosts)   │
 *   └────────────┘    └────────────────────────────┘    └────────────────────┘
 */
export const UNDERLAY = '192.168.77.0/24'
export const ETCD_ADDRESS = '192.168.77.1'
export const ETCD_ENDPOINT = `http://${ETCD_ADDRESS}:2379`
export const DEFAULT_NETWORK = '10.5.0.0/16'
export const DEFAULT_PREFIX = '/coreos.com/network'
export const DEFAULT_NAME = 'lab'
export const DEFAULT_HOSTS = 3

/** A daemon is a Node process of some 80 MB: more hosts than that are no laptop's business. */
export const MAX_HOSTS = 100

/** It becomes part of namespace names, file names and command lines. */
export const LAB_NAME = /^[a-z0-9][a-z0-9-]{0,19}$/

export function underlayNamespace(name: string): string {
  return `${name}-underlay`
}

/** @param number hosts count from 1. */
export function hostNamespace(name: string, number: number): string {
  return `${name}-host${number}`
}

export function containerNamespace(name: string, number: number): string {
  return `${name}-c${number}`
}

/** The address by which the other hosts reach host `number`. */
export function hostAddress(number: number): string {
  return `192.168.77.${10 + number}`
}

/** Every namespace of a lab with hosts 1 to `hosts`. */
export function namespacesOf(name: string, hosts: number): string[] {
  const numbers = Array.from({ length: hosts }, (_, index) => index + 1)
  return [
    underlayNamespace(name),
    ...numbers.flatMap(number => [
      hostNamespace(name, number),
      containerNamespace(name, number),
    ]),
  ]
}

/** Where the one container of a subnet lives: docker0 has the first address, it the second. */
export interface ContainerAddresses {
  /** docker0's address with its length: FLANNEL_SUBNET, such as 10.5.72.1/24. */
  readonly bridge: string
  readonly gateway: string
  /** Without a length: 10.5.72.2. */
  readonly container: string
  readonly length: number
}

/** @param flannelSubnet FLANNEL_SUBNET of subnet.env. Throws SyntaxError. */
export function containerAddresses(flannelSubnet: string): ContainerAddresses {
  const subnet = parseInterfaceAddress(flannelSubnet)
  const { family, value } = firstHostAddress(subnet)
  return {
    bridge: flannelSubnet,
    gateway: formatAddress({ family, value }),
    container: formatAddress({ family, value: value + 1n }),
    length: subnet.length,
  }
}

/** Why a network cannot be the lab's; undefined when it can. */
export function refuseNetwork(network: string): string | undefined {
  try {
    const prefix = parsePrefix(network)
    if (prefix.family === 6) return 'the lab is IPv4, as the udp backend is'
    if (overlaps(prefix, parsePrefix(UNDERLAY)))
      return `it overlaps ${UNDERLAY}, the lab's own underlay`
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}
