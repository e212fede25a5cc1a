import t from 'tap'
import { type PacketMatch, matchesPacket } from '../../../lib/diagnosis/packet-match.js'
import { parsePrefix } from '../../../lib/subnet/prefix.js'

/** UDP from 10.5.1.2 port 1000 to 10.5.2.3 port 53. */
const IPV4 = Buffer.from(
  '4500001c0000000040110000' + '0a050102' + '0a050203' + '03e8003500080000',
  'hex',
)
/** The same over IPv6, from fd00::1 to fd00::2. */
const IPV6 = Buffer.from(
  '6000000000081140' +
    'fd000000000000000000000000000001' +
    'fd000000000000000000000000000002' +
    '03e8003500080000',
  'hex',
)
const LATER_FRAGMENT = Buffer.from(IPV4)
LATER_FRAGMENT.writeUInt16BE(100, 6)

for (const [name, bytes, match, isWanted] of [
  ['everything', IPV4, {}, true],
  ['a source', IPV4, { range: parsePrefix('10.5.1.2/32') }, true],
  ['a destination in a range', IPV4, { range: parsePrefix('10.5.2.0/24') }, true],
  ['others', IPV4, { range: parsePrefix('10.5.3.0/24') }, false],
  ['the other family', IPV6, { range: parsePrefix('10.5.2.0/24') }, false],
  ['IPv6', IPV6, { range: parsePrefix('fd00::2/128') }, true],
  ['a protocol', IPV6, { protocols: new Set([17]) }, true],
  ['another protocol', IPV4, { protocols: new Set([6]) }, false],
  ['a port', IPV4, { ports: new Set([53]) }, true],
  ['a port over IPv6', IPV6, { ports: new Set([1000]) }, true],
  ['another port', IPV4, { ports: new Set([80]) }, false],
  ['a fragment without ports', LATER_FRAGMENT, { ports: new Set([53]) }, false],
  ['one that is cut', IPV4.subarray(0, 22), { ports: new Set([53]) }, false],
  ['nonsense', Buffer.of(0x45, 0), {}, false],
  ['nothing', Buffer.alloc(0), {}, false],
] satisfies [string, Uint8Array, PacketMatch, boolean][])
  t.test(name, t => {
    t.equal(matchesPacket(bytes, match), isWanted)
    t.end()
  })
