import t from 'tap'
import { recordsOf } from '../../../cmd/flanneld/publish-names.js'
import {
  formatService,
  isName,
  nameKey,
  reverseKey,
  toLabel,
} from '../../../lib/names/skydns.js'
import { parseAddress, parsePrefix } from '../../../lib/subnet/prefix.js'

t.test('keys as CoreDNS reads them', t => {
  t.match(
    nameKey('/skydns', 'web.db.skydns.local', 'x'),
    /^\/skydns\/local\/skydns\/db\/web\/_[0-9a-f]{16}$/,
  )
  t.not(nameKey('/skydns', 'web.local', 'x'), nameKey('/skydns', 'web.local', 'y'))
  t.equal(
    reverseKey('/skydns', parseAddress('10.1.74.5')),
    '/skydns/arpa/in-addr/10/1/74/5',
  )
  t.equal(
    reverseKey('/skydns', parseAddress('fd00::a1')),
    `/skydns/arpa/ip6/f/d/0/0/${'0/'.repeat(26)}a/1`,
  )
  t.equal(formatService('10.1.74.5'), '{"host":"10.1.74.5","ttl":60}', 'a number')
  t.end()
})

t.test('names', t => {
  for (const name of ['local', 'containers.local', 'a-b.c9']) t.ok(isName(name), name)
  for (const name of [
    '',
    '.',
    'a..b',
    'A.local',
    '-a',
    'a_b',
    'a/b',
    `${'a'.repeat(64)}.x`,
  ])
    t.notOk(isName(name), name)
  t.equal(toLabel('My_Web.1'), 'my-web-1')
  for (const text of ['', '-a', 'ü', '../x', 'a b', 'a'.repeat(64)])
    t.equal(toLabel(text), undefined, text)
  t.end()
})

t.test('containers of which some are hostile', t => {
  const holder = {
    hostId: 'host-a',
    backendType: 'udp',
    publicIp: parseAddress('192.0.2.1'),
  }
  const records = recordsOf(
    [
      {
        id: '1',
        name: 'web',
        addresses: ['10.5.1.2', 'fd00::2', 'nonsense', '172.18.0.2'],
      },
      { id: '2', name: '../../etc', addresses: ['10.5.1.3'] },
      { id: '3', name: 'hosts', addresses: ['10.5.1.4'] },
      { id: '4', name: 'host-network', addresses: [] },
    ],
    {
      holder,
      ranges: [parsePrefix('10.5.1.0/24')],
      prefix: '/skydns',
      zone: 'c.local',
      name: 'Node1.example',
    },
  )
  const found = Array.from(records, ([key, value]) => [key.replace(/_\w+$/, '_'), value])
  t.same(found, [
    ['/skydns/local/c/hosts/node1-example/_', '{"host":"192.0.2.1","ttl":60}'],
    ['/skydns/local/c/web/_', '{"host":"10.5.1.2","ttl":60}'],
    ['/skydns/arpa/in-addr/10/5/1/2', '{"host":"web.c.local.","ttl":60}'],
  ])
  t.end()
})
