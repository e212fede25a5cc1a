import {
  runInside,
  ipInside,
  makeNamespaces,
  removeNamespaces,
} from '../../cmd/flannelctl/lab/namespaces.js'

/**
 * Two hosts on one cable, each with a container behind a bridge:
 *
 *   c1 ── br0 h1 eth0 ───────── eth0 h2 br0 ── c2
 *             192.168.99.11   192.168.99.12
 */
export const SIDES = [1, 2] as const
export type Side = (typeof SIDES)[number]

export const hostOf = (side: Side): string => `bench-h${side}`
export const containerOf = (side: Side): string => `bench-c${side}`
export const underlayOf = (side: Side): string => `192.168.99.1${side}`
export const other = (side: Side): Side => (side === 1 ? 2 : 1)

/**
 * `super` is a veth pair as it comes, across which super-packets go whole, as on
 * no wire. `wire` behaves like a network card and a cable: packets are cut to the
 * MTU before they cross, and joined behind.
 */
export const UNDERLAYS = ['super', 'wire'] as const
export type Underlay = (typeof UNDERLAYS)[number]

const OFFLOADS = {
  super: 'tso on gso on tx-udp-segmentation on tx-udp_tnl-segmentation on gro off',
  wire: 'tso off gso off tx-udp-segmentation off tx-udp_tnl-segmentation off gro on',
} as const

const NAMESPACES = SIDES.flatMap(side => [hostOf(side), containerOf(side)])

export async function openTopology(): Promise<void> {
  await removeNamespaces(NAMESPACES)
  await makeNamespaces(NAMESPACES)
  await ipInside(hostOf(1), [`link add eth0 type veth peer name eth0 netns ${hostOf(2)}`])
  for (const side of SIDES) {
    await ipInside(hostOf(side), [
      'link set lo up',
      `address add ${underlayOf(side)}/24 dev eth0`,
      'link set eth0 up',
      'link add br0 type bridge',
      'link set br0 up',
      `link add v0 type veth peer name eth0 netns ${containerOf(side)}`,
      'link set v0 master br0 up',
    ])
    await runInside(hostOf(side), ['sysctl', '-qw', 'net.ipv4.ip_forward=1'])
    await ipInside(containerOf(side), ['link set lo up', 'link set eth0 up'])
  }
}

export async function closeTopology(): Promise<void> {
  await removeNamespaces(NAMESPACES)
}

/** Gives each container an address of its host's subnet, such as 10.77.5. */
export async function addressContainers(subnetOf: (side: Side) => string): Promise<void> {
  for (const side of SIDES) {
    const subnet = subnetOf(side)
    await ipInside(hostOf(side), [`address add ${subnet}.1/24 dev br0`])
    await ipInside(containerOf(side), [
      `address add ${subnet}.2/24 dev eth0`,
      `route add default via ${subnet}.1`,
    ])
  }
}

export async function setUnderlay(kind: Underlay): Promise<void> {
  for (const side of SIDES)
    await runInside(hostOf(side), ['ethtool', '-K', 'eth0', ...OFFLOADS[kind].split(' ')])
}

export async function setContainerMtu(mtu: number): Promise<void> {
  for (const side of SIDES) {
    await ipInside(hostOf(side), [`link set v0 mtu ${mtu}`, `link set br0 mtu ${mtu}`])
    await ipInside(containerOf(side), [`link set eth0 mtu ${mtu}`])
  }
}
