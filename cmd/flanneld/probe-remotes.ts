import type { Logger } from 'pino'
import type { Backend, Remote } from '../../lib/backend/backend.js'
import type { Underlay } from '../../lib/backend/underlay.js'
import { IcmpSocket } from '../../lib/linux/icmp-socket.js'
import type { IcmpFailure } from '../../lib/probe/icmp.js'
import { type ProbeTarget, Prober } from '../../lib/probe/prober.js'
import type { Clock } from '../../lib/subnet/clock.js'
import { baseAddress } from '../../lib/subnet/prefix.js'
import { formatSubnet, prefixesOf } from '../../lib/subnet/subnet-key.js'

/** IANA's numbers of what carries packets of ours. */
const PROTOCOL_IPIP = 4
const PROTOCOL_UDP = 17

export interface ProbeOptions {
  readonly backend: Pick<Backend, 'reach'>
  readonly underlay: Underlay
  /** The longest packet that is sent on the underlay, where the configuration says so. */
  readonly outerMtu: number | undefined
  /** Packets a second; 0 for none. */
  readonly rate: number
  readonly clock: Clock
  readonly log: Logger
}

/** Measures the way to the remotes of a backend. */
export function openProber(options: ProbeOptions): Prober {
  const { backend, underlay, outerMtu, rate, clock, log } = options
  return new Prober({
    rate,
    longest: outerMtu ?? underlay.mtu,
    isOurs: isCarrying(backend.reach.ports),
    open: IcmpSocket.open.bind(IcmpSocket),
    clock,
    log,
  })
}

/** Whether a failure is about a packet that carries one of ours: IP-in-IP, or UDP to these ports. */
export function isCarrying(
  ports: ReadonlySet<number>,
): (failure: IcmpFailure) => boolean {
  return ({ protocol, port }) =>
    protocol === PROTOCOL_IPIP ||
    (protocol === PROTOCOL_UDP && port !== undefined && ports.has(port))
}

/** Where each remote answers, if it does. */
export function targetsOf(
  remotes: readonly Remote[],
  { backend, underlay }: Pick<ProbeOptions, 'backend' | 'underlay'>,
): ProbeTarget[] {
  const { isAnsweredAtBase, carrier, hasMtuOption } = backend.reach
  return remotes.flatMap(({ subnet, holder }) => {
    const { publicIp, publicIpv6 } = holder
    const address =
      underlay.addresses[4] === undefined
        ? (publicIpv6 ?? publicIp)
        : (publicIp ?? publicIpv6)
    const [prefix] = prefixesOf(subnet)
    if (address === undefined || prefix === undefined) return []
    const overlay = isAnsweredAtBase ? baseAddress(prefix) : undefined
    const id = formatSubnet(subnet)
    return [{ id, underlay: address, overlay, carrier, hasMtuOption }]
  })
}

/** What an operator should know at a glance; undefined when all answer or nobody knows. */
export function describeStates({ states }: Pick<Prober, 'states'>): string | undefined {
  const away = states.silent + states.unreachable
  const all = away + states.up + states.unknown
  return away === 0
    ? undefined
    : `${away} of ${all} remotes do not answer: flannelctl peers says which, and why`
}
