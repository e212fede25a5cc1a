import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { parseAddress } from '../../../lib/subnet/prefix.js'
import {
  type Holder,
  formatHolder,
  parseHolder,
  parseSubnetRecord,
} from '../../../lib/subnet/subnet-record.js'
import { fc, holds } from '../../helpers/property.js'
import { addressOf } from '../../helpers/subnet-arbitraries.js'

const ip = parseAddress

t.test("records have flannel's bytes", t => {
  const golden: readonly [bytes: string, holder: Holder][] = [
    [
      '{"PublicIP":"1.2.3.4","PublicIPv6":null}',
      { publicIp: ip('1.2.3.4'), backendType: '' },
    ],
    [
      '{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"host-gw"}',
      { publicIp: ip('1.2.3.4'), backendType: 'host-gw' },
    ],
    [
      '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}',
      {
        publicIp: ip('192.168.64.3'),
        backendType: 'vxlan',
        backendData: { VNI: 1, VtepMAC: 'c6:d2:32:6f:8f:44' },
      },
    ],
    [
      '{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::3","BackendType":"vxlan","BackendData":{"VNI":1},"BackendV6Data":{"VNI":2}}',
      {
        publicIp: ip('1.2.3.4'),
        publicIpv6: ip('fd00::3'),
        backendType: 'vxlan',
        backendData: { VNI: 1 },
        backendV6Data: { VNI: 2 },
      },
    ],
    [
      '{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::3"}',
      { publicIpv6: ip('fd00::3'), backendType: '' },
    ],
    [
      '{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"extension","BackendData":"a string"}',
      { publicIp: ip('1.2.3.4'), backendType: 'extension', backendData: 'a string' },
    ],
  ]
  for (const [bytes, holder] of golden) {
    t.equal(formatHolder(holder), bytes)
    t.strictSame(parseHolder(bytes), holder)
  }
  t.end()
})

t.test("our own fields come behind flannel's", t => {
  const holder: Holder = {
    publicIp: ip('1.2.3.4'),
    backendType: '',
    hostId: 'host-1',
    sourceIps: [ip('10.0.0.4'), ip('fd00::4')],
  }
  t.equal(
    formatHolder(holder),
    '{"PublicIP":"1.2.3.4","PublicIPv6":null,"HostID":"host-1","SourceIPs":["10.0.0.4","fd00::4"]}',
  )
  t.end()
})

t.test('what old flannels, new flannels and people write is read', t => {
  t.strictSame(parseHolder('{"PublicIP":"1.2.3.4"}'), {
    publicIp: ip('1.2.3.4'),
    backendType: '',
  })
  t.strictSame(
    parseHolder(
      ' {"publicip":"1.2.3.4","Future":[{"a":1}],"backendtype":"vxlan","BackendData":{"VtepMAC":"x"},"BackendV6Data":null,"HostID":null}\n',
    ),
    { publicIp: ip('1.2.3.4'), backendType: 'vxlan', backendData: { VtepMAC: 'x' } },
  )
  t.end()
})

t.test('what a record cannot mean is refused with the reason', t => {
  const value = (object: object) => JSON.stringify({ PublicIP: '1.2.3.4', ...object })
  const cases: readonly [value: string, reason: string | RegExp][] = [
    ['null', 'value is not a JSON object'],
    ['[]', 'value is not a JSON object'],
    ['"1.2.3.4"', 'value is not a JSON object'],
    ['{}', 'neither PublicIP nor PublicIPv6 is an address'],
    ['{"PublicIP":"0.0.0.0"}', 'neither PublicIP nor PublicIPv6 is an address'],
    [
      '{"PublicIP":"","PublicIPv6":"::"}',
      'neither PublicIP nor PublicIPv6 is an address',
    ],
    [value({ PublicIP: 16909060 }), 'PublicIP is not a string'],
    [value({ PublicIP: '1.2.3.4/24' }), '"1.2.3.4/24" is not an IP address'],
    [value({ PublicIP: '1.2.3.4; reboot' }), '"1.2.3.4; reboot" is not an IP address'],
    [value({ PublicIP: 'fd00::3' }), 'PublicIP fd00::3 is not an IPv4 address'],
    [value({ PublicIPv6: '1.2.3.4' }), 'PublicIPv6 1.2.3.4 is not an IPv6 address'],
    [value({ BackendType: '../../x' }), /^BackendType is not a word/],
    [value({ BackendType: 'x'.repeat(33) }), /^BackendType is not a word/],
    [value({ BackendType: 5 }), /^BackendType is not a word/],
    [value({ HostID: '' }), /^HostID is not a word/],
    [value({ HostID: 'a b' }), /^HostID is not a word/],
    [value({ HostID: 'a\nb' }), /^HostID is not a word/],
    [value({ HostID: 'a\n' }), /^HostID is not a word/],
    [value({ HostID: ['a'] }), /^HostID is not a word/],
    [value({ SourceIPs: '1.2.3.4' }), 'SourceIPs is not a list of up to 4 addresses'],
    [
      value({ SourceIPs: ['1.1.1.1', '1.1.1.2', '1.1.1.3', '1.1.1.4', '1.1.1.5'] }),
      'SourceIPs is not a list of up to 4 addresses',
    ],
    [value({ SourceIPs: [7] }), 'SourceIPs holds something else than text'],
    [
      value({ SourceIPs: ['127.0.0.1'] }),
      'SourceIPs: 127.0.0.1 is not the address of one host',
    ],
    [value({ Pad: 'x'.repeat(16_384) }), /^value of \d+ bytes is too large$/],
  ]
  for (const [text, reason] of cases) {
    t.throws(
      () => parseHolder(text),
      { name: 'SyntaxError', message: reason },
      text.slice(0, 80),
    )
  }
  t.end()
})

t.test('an address to which no packet may be sent is refused', t => {
  const four = ['0.0.0.1', '127.0.0.1', '224.0.0.1', '240.0.0.1', '255.255.255.255']
  const six = ['::1', 'ff02::1', '::ffff:1.2.3.4']
  for (const address of four) {
    t.throws(() => parseHolder(JSON.stringify({ PublicIP: address })), {
      name: 'SyntaxError',
      message: `PublicIP ${address} is not the address of one host`,
    })
  }
  for (const address of six) {
    t.throws(() => parseHolder(JSON.stringify({ PublicIPv6: address })), {
      name: 'SyntaxError',
      message: `PublicIPv6 ${address} is not the address of one host`,
    })
  }
  t.end()
})

t.test('parsing takes back what formatting gave', async t => {
  const reachable4 = addressOf(4).map(({ family, value }) => ({
    family,
    value: (value & 0x3fffffffn) | 0x80000000n,
  }))
  const reachable6 = addressOf(6).map(({ family, value }) => ({
    family,
    value: (value & ((1n << 120n) - 1n)) | (0xfdn << 120n),
  }))
  const json = fc
    .json({ maxDepth: 2 })
    .filter(text => text !== 'null' && text.length < 4000)
    .map(text => JSON.parse(text) as unknown)
  const holder: fc.Arbitrary<Holder> = fc.record(
    {
      publicIp: reachable4,
      publicIpv6: reachable6,
      backendType: fc.constantFrom('', 'vxlan', 'host-gw', 'wireguard', 'x-1'),
      backendData: json,
      backendV6Data: json,
      hostId: fc.stringMatching(/^[A-Za-z0-9._-]{1,64}$/),
      sourceIps: fc.array(fc.oneof(reachable4, reachable6), {
        minLength: 1,
        maxLength: 4,
      }),
    },
    { requiredKeys: ['publicIp', 'backendType'], noNullPrototype: true },
  )
  await holds(
    t,
    fc.property(holder, value =>
      isDeepStrictEqual(parseHolder(formatHolder(value)), value),
    ),
  )
})

t.test('any text is a record or a SyntaxError', async t => {
  const value = fc.oneof(
    fc.constantFrom('1.2.3.4', 'fd00::1', '127.0.0.1', '', 'vxlan'),
    fc.jsonValue({ maxDepth: 2 }),
  )
  const fields = ['PublicIP', 'PublicIPv6', 'BackendType', 'BackendData', 'HostID']
  const object = fc.dictionary(fc.constantFrom(...fields, 'SourceIPs', 'publicip'), value)
  const text = fc.oneof(
    fc.string(),
    fc.json(),
    object.map(fields => JSON.stringify(fields)),
  )
  await holds(
    t,
    fc.property(text, input => {
      try {
        const holder = parseHolder(input)
        const { publicIp, publicIpv6, hostId } = holder
        return [publicIp, publicIpv6, hostId].some(part => part !== undefined)
      } catch (error) {
        return error instanceof SyntaxError
      }
    }),
    { numRuns: 3000 },
  )
})

t.test('a key on a lease is a lease, one without is a reservation', t => {
  const entry = {
    key: '/net/subnets/10.5.52.0-24',
    value: '{"PublicIP":"1.2.3.4","PublicIPv6":null}',
    createRevision: 5n,
    modRevision: 9n,
  }
  t.match(parseSubnetRecord(entry), { kind: 'reservation', createRevision: 5n })
  t.equal('leaseId' in parseSubnetRecord(entry), false)
  t.match(parseSubnetRecord({ ...entry, leaseId: '77' }), {
    kind: 'lease',
    leaseId: '77',
    modRevision: 9n,
    key: entry.key,
  })
  t.throws(() => parseSubnetRecord({ ...entry, value: '{}' }), {
    name: 'SyntaxError',
    message:
      'value of /net/subnets/10.5.52.0-24: neither PublicIP nor PublicIPv6 is an address',
  })
  t.throws(() => parseSubnetRecord({ ...entry, key: '/net/subnets/x' }), {
    name: 'SyntaxError',
  })
  t.end()
})
