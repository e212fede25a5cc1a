/** Everything that reads bytes of somebody else, with what must hold of it whatever they are. */
import { deepStrictEqual, strictEqual } from 'node:assert/strict'
import { CommandFailure } from '../../cmd/flannelctl/command.js'
import { readCloudConfig } from '../../cmd/flannelctl/import.js'
import { readCommandLine } from '../../cmd/flanneld/command-line.js'
import { FLANNELD_FLAGS } from '../../cmd/flanneld/flag-table.js'
import { UsageError } from '../../cmd/flanneld/parse-flags.js'
import { findMasquerade, findRefusal } from '../../lib/diagnosis/packet-filter.js'
import { matchesPacket } from '../../lib/diagnosis/packet-match.js'
import { DROP_REASONS, Drop } from '../../lib/encap/drops.js'
import { checkInbound, routeOutbound } from '../../lib/encap/forward.js'
import { ForwardingTable } from '../../lib/encap/forwarding-table.js'
import {
  IcmpError,
  MAX_ICMP_ERROR,
  mayAnswerWithError,
  writeIcmpError,
} from '../../lib/encap/icmp.js'
import { allocatePackets } from '../../lib/encap/packet-memory.js'
import {
  FrameReader,
  PathMessage,
  decodeForwarding,
  decodeHello,
  decodeKnowledge,
  decodePermit,
  decodeStatistics,
  encodeForwarding,
  encodeFrame,
  encodeHello,
  encodeKnowledge,
  encodePermit,
} from '../../lib/encap/path-control.js'
import { SuperPacket } from '../../lib/encap/super-packet.js'
import { parseLinks } from '../../lib/linux/ip-links.js'
import { parseRoutes } from '../../lib/linux/ip-routes.js'
import { parseWgDump } from '../../lib/linux/wg.js'
import { quoteWord, splitWords } from '../../lib/linux/words.js'
import { toLabel } from '../../lib/names/skydns.js'
import { readIcmp } from '../../lib/probe/icmp.js'
import { parseLeaseCache } from '../../lib/subnet/lease-cache.js'
import { parseNetworkConfig } from '../../lib/subnet/network-config.js'
import { formatOrder, parseOrder } from '../../lib/subnet/orders.js'
import { parseAddress, parsePrefix } from '../../lib/subnet/prefix.js'
import { SubnetError } from '../../lib/subnet/errors.js'
import {
  formatVariable,
  parseSubnetEnv,
  parseVariables,
} from '../../lib/subnet/subnet-env.js'
import { formatSubnetKey, parseSubnetKey } from '../../lib/subnet/subnet-key.js'
import { formatHolder, parseHolder } from '../../lib/subnet/subnet-record.js'
import { SERVERS } from './servers.js'
import type { Target } from './target.js'
import { STATE } from '../helpers/forwarding-state.js'
import { ip, ipPacket } from '../helpers/packets.js'
import { referenceInbound, referenceOutbound } from '../reference/forwarding.js'

const TABLE = new ForwardingTable(STATE)
const OUTER = ip('192.0.2.1')

const PACKETS = [
  ipPacket({
    source: '10.5.1.9',
    destination: '10.5.72.9',
    payload: Buffer.from('payload'),
  }),
  ipPacket({
    source: '10.5.72.9',
    destination: '10.5.1.9',
    payload: Buffer.alloc(40, 7),
  }),
  ipPacket({
    source: 'fd00:5:0:1::9',
    destination: 'fd00:5:0:72::9',
    payload: Buffer.alloc(48),
  }),
  ipPacket({
    source: 'fd00:5:0:72::9',
    destination: 'fd00:5:0:1::9',
    payload: Buffer.alloc(9),
  }),
]

const verdict = (code: number): number | string =>
  code >= 0 ? code : (DROP_REASONS.find(name => Drop[name] === -code) ?? 'unknown')

const MEMORY = allocatePackets(1 << 17)
const SUPER = new SuperPacket(MEMORY)
const CHUNK = 97

function forwardBothWays(packet: Buffer): void {
  const { length } = packet
  const inbound = checkInbound(packet, 0, length, OUTER, 0, OUTER.length, TABLE)
  strictEqual(verdict(inbound), referenceInbound(STATE, packet, OUTER))
  const outbound = routeOutbound(packet, 0, length, TABLE)
  strictEqual(verdict(outbound), referenceOutbound(STATE, packet))
  if (outbound < 0 && -outbound !== Drop.noRoute) return
  if (!mayAnswerWithError(packet, 0, length)) return
  const bytes = Buffer.alloc(length + MAX_ICMP_ERROR)
  packet.copy(bytes)
  const from = ip((packet[0] ?? 0) >> 4 === 4 ? '10.5.72.1' : 'fd00:5:0:72::1')
  const written = writeIcmpError(bytes, length, from, IcmpError.tooBig, 1472, 0, length)
  if (written > MAX_ICMP_ERROR) throw new Error(`an ICMP error of ${written} bytes`)
  const error = bytes.subarray(length, length + written)
  strictEqual(mayAnswerWithError(error, 0, written), false, 'an error about an error')
}

/** The first two bytes say where it is cut. */
function cutIntoSegments(input: Buffer): void {
  if (input.length < 3) return
  const packet = input.subarray(2)
  if (!isWhole(packet)) return
  MEMORY.bytes.set(packet, 0)
  for (const type of [1, 4, 5]) {
    if (!SUPER.open(0, packet.length, type, input.readUInt16BE(0))) continue
    let bytes = 0
    for (let index = 0; index < SUPER.count; index++) {
      const start = SUPER.payloadStart(index)
      const length = SUPER.payloadLength(index)
      if (start < 0 || length <= 0 || start + length > packet.length)
        throw new RangeError(`segment ${index} is outside of the packet`)
      SUPER.writeHeader(index, 1 << 16)
      bytes += length
    }
    strictEqual(bytes, packet.length - SUPER.headerLength)
  }
}

/** Of the length that it says, as all packets are that get so far. */
function isWhole(packet: Buffer): boolean {
  return !['tooShort', 'badHeader', 'notIp'].includes(
    String(referenceOutbound(STATE, packet)),
  )
}

const DECODERS = [
  decodeHello,
  decodePermit,
  decodeForwarding,
  decodeKnowledge,
  decodeStatistics,
]

/** In one piece and in many: the frames are the same. Then every decoder on every payload. */
function readControl(input: Buffer): void {
  const whole = new FrameReader().push(input)
  const reader = new FrameReader()
  const pieces = []
  for (let at = 0; at < input.length; at += CHUNK)
    pieces.push(...reader.push(input.subarray(at, at + CHUNK)))
  deepStrictEqual(
    pieces.map(({ type, payload }) => [type, payload.toString('hex')]),
    whole.map(({ type, payload }) => [type, payload.toString('hex')]),
  )
  for (const { payload } of whole)
    for (const decode of DECODERS) {
      try {
        decode(payload)
      } catch (error) {
        if (!(error instanceof RangeError)) throw error
      }
    }
}

const FORWARDING = encodeForwarding(STATE)
const KEY = '/coreos.com/network/subnets/'
const MOMENT = { boot: 'b', now: 5000, date: new Date(1_700_000_000_000) }

const FILTERED = {
  in: 'docker0',
  out: 'flannel0',
  source: parseAddress('10.5.72.9'),
  destination: parseAddress('10.5.1.9'),
  protocol: 'icmp',
} as const

const text = (input: Buffer): string => input.toString('utf8')

export const TARGETS: readonly Target[] = [
  ...SERVERS,
  { name: 'packet', seeds: PACKETS, run: forwardBothWays },
  {
    name: 'super-packet',
    seeds: PACKETS.map(packet => Buffer.concat([Buffer.from([0, 8]), packet])),
    run: cutIntoSegments,
  },
  {
    name: 'control',
    seeds: [
      encodeFrame(PathMessage.hello, encodeHello({ protocol: 3, pid: 7, label: 'x' })),
      encodeFrame(PathMessage.forwarding, FORWARDING),
      encodeFrame(PathMessage.permit, encodePermit(1234)),
      encodeFrame(PathMessage.forwarding, encodeKnowledge(1234, FORWARDING)),
    ],
    run: readControl,
    refusals: [RangeError],
  },
  {
    name: 'icmp',
    seeds: [
      Buffer.from(
        '4500001c000000004001000001020304050607080000000000010002aabbccddaabbccdd',
        'hex',
      ),
    ],
    run: input => {
      readIcmp(4, input)
      readIcmp(6, input)
    },
  },
  {
    name: 'captured-packet',
    seeds: PACKETS,
    run: input => {
      matchesPacket(input, {
        range: parsePrefix('10.5.0.0/16'),
        protocols: new Set([6, 17]),
        ports: new Set([80]),
      })
    },
  },
  {
    name: 'subnet-key',
    seeds: [`${KEY}10.5.72.0-24`, `${KEY}10.5.72.0-24&fd00:5:0:72::-64`],
    run: input => {
      const subnet = parseSubnetKey(text(input))
      deepStrictEqual(
        parseSubnetKey(formatSubnetKey('/coreos.com/network', subnet)),
        subnet,
      )
    },
    refusals: [SyntaxError],
  },
  {
    name: 'record',
    seeds: [
      '{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"udp"}',
      '{"PublicIP":"192.0.2.7","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:12:34:56:78:9a"},"BackendV6Data":{"VNI":1,"VtepMAC":"0e:12:34:56:78:9b"},"HostID":"a1","Subnet":"x"}',
    ],
    run: input => {
      const holder = parseHolder(text(input))
      deepStrictEqual(parseHolder(formatHolder(holder)), holder)
    },
    refusals: [SyntaxError],
  },
  {
    name: 'config',
    seeds: [
      '{"Network":"10.5.0.0/16","SubnetLen":24,"SubnetMin":"10.5.1.0","SubnetMax":"10.5.255.0","Backend":{"Type":"vxlan","VNI":1,"Port":8472}}',
      '{"EnableIPv6":true,"IPv6Network":"fd00:5::/48","IPv6SubnetLen":64,"EnableIPv4":false,"Backend":{"Type":"wireguard","PSK":"x"}}',
    ],
    run: input => {
      parseNetworkConfig(text(input))
    },
    refusals: [SubnetError, SyntaxError],
  },
  {
    name: 'subnet-env',
    seeds: [
      'FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:72::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n',
    ],
    run: input => {
      parseSubnetEnv(text(input))
    },
  },
  {
    name: 'variables',
    seeds: ['FLANNELD_IFACE=10.0.0.5\nexport A="b c" # d\nB=\'x\'\n'],
    run: input => {
      for (const [name, value] of parseVariables(text(input))) {
        const line = formatVariable(name, value)
        if (line.includes('\n')) throw new Error('a variable of two lines')
        strictEqual(parseVariables(line).get(name), value.replaceAll(/[\r\n]+/g, ' '))
      }
    },
  },
  {
    name: 'cloud-config',
    seeds: [
      '#cloud-config\ncoreos:\n  flannel:\n    etcd_endpoints: http://192.0.2.1:2379\n    interface: $private_ipv4\n  units:\n    - name: flanneld.service\n      command: start\n      drop-ins:\n        - name: x.conf\n          content: |\n            [Service]\n',
      '#cloud-config\na: &a [1, 2]\nb: [*a, *a]\ncoreos: {flannel: {etcd_prefix: /x, ip_masq: true}}\n',
    ],
    run: input => {
      const { files } = readCloudConfig(text(input), 'user-data', {
        private_ipv4: '10.0.0.5',
      })
      for (const { path } of files)
        if (!path.startsWith('/') || path.split('/').includes('..'))
          throw new Error(`a file at ${path}`)
    },
    refusals: [CommandFailure],
  },
  {
    name: 'ip-links',
    seeds: [
      '[{"ifindex":1,"ifname":"eth0","flags":["UP"],"mtu":1500,"operstate":"UP","address":"02:00:00:00:00:01","linkinfo":{"info_kind":"veth"},"addr_info":[{"family":"inet","local":"192.0.2.1","prefixlen":24,"scope":"global"}]}]',
    ],
    run: input => {
      parseLinks(text(input))
    },
    refusals: [SyntaxError],
  },
  {
    name: 'ip-routes',
    seeds: [
      '[{"dst":"default","gateway":"192.0.2.254","dev":"eth0","protocol":"static","flags":[]},{"type":"blackhole","dst":"10.5.72.0/24","metric":5,"flags":[]},{"dst":"10.5.1.0/24","nexthops":[{"gateway":"192.0.2.1","dev":"eth0","weight":1,"flags":[]}],"flags":[]}]',
    ],
    run: input => {
      parseRoutes(text(input), 4)
      parseRoutes(text(input), 6)
    },
    refusals: [SyntaxError],
  },
  {
    name: 'iptables-save',
    seeds: [
      '*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n-A DOCKER-USER -s 10.5.0.0/16 -d 10.5.1.9/32 -p icmp -m comment --comment "a \\" b" -j REJECT --reject-with icmp-port-unreachable\n-A DOCKER-USER -j RETURN\nCOMMIT\n',
      '*nat\n:POSTROUTING ACCEPT [0:0]\n:A - [0:0]\n-A POSTROUTING -j A\n-A POSTROUTING -g A\n-A A -p udp -m udp --dport 53 -j SNAT --to-source 192.0.2.1\n-A A -s 10.5.72.0/24 ! -o docker0 -j MASQUERADE\nCOMMIT\n',
    ],
    run: input => {
      const saved = text(input)
      const tables = [{ program: 'iptables', family: 4, text: saved }] as const
      for (const refusal of [
        findRefusal(tables, 'FORWARD', FILTERED),
        findMasquerade(tables, FILTERED),
      ])
        if (refusal?.rule !== undefined && !saved.includes(refusal.rule))
          throw new Error(`${refusal.rule} is not there`)
    },
  },
  {
    name: 'wg-dump',
    seeds: [
      `${'A'.repeat(43)}=\t${'B'.repeat(43)}=\t51820\toff\n${'C'.repeat(43)}=\t(none)\t192.0.2.1:51820\t10.5.1.0/24\t0\t0\t0\toff\n`,
    ],
    run: input => {
      parseWgDump(text(input))
    },
    refusals: [SyntaxError],
  },
  {
    name: 'order',
    seeds: [
      '{"version":1,"kind":"move","to":"10.5.9.0/24","host":"x","state":"open"}',
      '{"version":1,"kind":"revoke","from":"10.5.9.0/24 and fd00:5:0:9::/64","state":"done","answer":"no subnet is held"}',
    ],
    run: input => {
      const order = parseOrder(text(input))
      deepStrictEqual(parseOrder(formatOrder(order)), order)
    },
    refusals: [SyntaxError],
  },
  {
    name: 'lease-cache',
    seeds: [
      `{"version":3,"subnet":"10.5.72.0/24","written":{"boot":"b","now":1,"date":"2026-01-01T00:00:00.000Z"},"config":"{}","held":{"key":"${KEY}10.5.72.0-24","createRevision":"1","modRevision":"2","leaseId":"7","provenAt":5},"permitUntil":9,"holder":"{}","revision":"3","records":[]}`,
    ],
    run: input => {
      parseLeaseCache(text(input), MOMENT)
    },
    refusals: [SyntaxError],
  },
  {
    name: 'flags',
    seeds: ['--etcd-endpoints=http://192.0.2.1:2379 -iface eth0 --ip-masq', '--v=2 -- a'],
    run: input => {
      readCommandLine(FLANNELD_FLAGS, text(input).split(' '), {})
    },
    refusals: [UsageError],
  },
  {
    name: 'words',
    seeds: [`sh -c 'a "b"' "c d" e\\ f`],
    run: input => {
      const words = splitWords(text(input))
      deepStrictEqual(splitWords(words.map(quoteWord).join(' ')), words)
    },
    refusals: [SyntaxError],
  },
  {
    name: 'label',
    seeds: ['My_Web', 'a.b', '-x-'],
    run: input => {
      const label = toLabel(text(input))
      if (label !== undefined && !/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(label))
        throw new Error(`${JSON.stringify(label)} is no label of DNS`)
    },
  },
]
