import t from 'tap'
import {
  type PeerDevice,
  type PeerOptions,
  wantPeers,
} from '../../../../lib/backend/wireguard/peers.js'
import type { Remote } from '../../../../lib/backend/backend.js'
import { parseAddress } from '../../../../lib/subnet/prefix.js'
import { remote } from '../remote-walks.js'

const key = (number: number): string => Buffer.alloc(32, number).toString('base64')

const OWN = key(255)
const PSK = key(77)

/** Host `number`, as its wireguard backend describes it. */
function host(number: number, fields: Partial<Remote['holder']> = {}): Remote {
  return remote(number, {
    backendType: 'wireguard',
    backendData: { PublicKey: key(number), Port: 51820 },
    backendV6Data: { PublicKey: key(number), Port: 51821 },
    ...fields,
  })
}

const SEPARATE: readonly PeerDevice[] = [
  { name: 'flannel-wg', families: [4], listenPort: 51820 },
  { name: 'flannel-wg-v6', families: [6], listenPort: 51821 },
]
const SINGLE: readonly PeerDevice[] = [
  { name: 'flannel-wg', families: [4, 6], listenPort: 51820 },
]

const OPTIONS: PeerOptions = {
  mode: 'separate',
  keepalive: 0,
  presharedKey: undefined,
  presharedKeyFile: '/run/psk',
  publicKey: OWN,
  addresses: { 4: parseAddress('192.0.2.1'), 6: parseAddress('2001:db8::1') },
}

function lines(
  remotes: readonly Remote[],
  devices = SEPARATE,
  options: Partial<PeerOptions> = {},
): string[] {
  const { objects } = wantPeers(remotes, devices, { ...OPTIONS, ...options })
  return objects.flatMap(({ put }) => put)
}

const endpoints = (...args: Parameters<typeof lines>): string[] =>
  lines(...args).map(line => / endpoint (\S+)/.exec(line)?.[1] ?? '')

const why = (remotes: readonly Remote[], devices = SEPARATE): string[] =>
  wantPeers(remotes, devices, OPTIONS).skipped.map(({ why }) => why)

t.test('a peer is told by one line of wg set for each device', t => {
  t.strictSame(lines([host(2)]), [
    `flannel-wg peer ${key(2)} preshared-key /dev/null endpoint 192.0.2.2:51820 persistent-keepalive 0 allowed-ips 10.5.2.0/24`,
    `flannel-wg-v6 peer ${key(2)} preshared-key /dev/null endpoint [2001:db8::2]:51821 persistent-keepalive 0 allowed-ips fd00:5:0:2::/64`,
  ])
  const secret = { presharedKey: PSK, keepalive: 25 }
  t.strictSame(lines([host(2)], SINGLE, { ...secret, mode: 'ipv4' }), [
    `flannel-wg peer ${key(2)} preshared-key /run/psk endpoint 192.0.2.2:51820 persistent-keepalive 25 allowed-ips 10.5.2.0/24,fd00:5:0:2::/64`,
  ])
  const [peer] = wantPeers([host(2)], SINGLE, { ...OPTIONS, ...secret }).objects
  t.notMatch(`${peer?.key} ${peer?.spec} ${String(peer?.put)}`, PSK, 'it is told nowhere')
  t.equal(peer?.remove, `flannel-wg peer ${key(2)} remove`)
  t.end()
})

t.test('a port that is not told is ours, and one that is told counts', t => {
  const data = (fields: object): Partial<Remote['holder']> => ({
    backendData: { PublicKey: key(2), ...fields },
    backendV6Data: { PublicKey: key(2), Port: 7777 },
  })
  const seen = [data({}), data({ Port: 0 }), data({ Port: 4000 })].map(
    fields => endpoints([host(2, fields)], SINGLE, { mode: 'ipv6' })[0],
  )
  t.strictSame(seen, ['[2001:db8::2]:51820', '[2001:db8::2]:51820', '[2001:db8::2]:4000'])
  t.end()
})

t.test('each mode sends to the address that it names', t => {
  const at = (v4: string, v6: string): Remote =>
    host(2, {
      publicIp: parseAddress(v4),
      publicIpv6: parseAddress(v6),
    })
  const auto = (remote: Remote): string =>
    endpoints([remote], SINGLE, { mode: 'auto' })[0] ?? ''
  const both = at('198.51.100.2', '2001:db8::2')
  t.strictSame(endpoints([both], SINGLE, { mode: 'ipv4' }), ['198.51.100.2:51820'])
  t.strictSame(endpoints([both], SINGLE, { mode: 'ipv6' }), ['[2001:db8::2]:51820'])
  t.equal(auto(both), '198.51.100.2:51820', 'IPv4 that is public')
  t.equal(auto(at('10.0.0.2', '2001:db8::2')), '[2001:db8::2]:51820', 'or IPv6 that is')
  t.equal(auto(at('10.0.0.2', 'fd09::2')), '10.0.0.2:51820', 'or IPv4')
  const one = { addresses: { 6: parseAddress('2001:db8::1') } }
  t.strictSame(endpoints([both], SINGLE, { mode: 'auto', ...one }), [
    '[2001:db8::2]:51820',
  ])
  t.end()
})

t.test('of two records with one key the later counts', t => {
  const [old, late] = [
    { ...host(2), modRevision: 5n },
    { ...host(3, host(2).holder), modRevision: 6n },
  ]
  for (const remotes of [
    [old, late],
    [late, old],
  ])
    t.match(lines(remotes), [/allowed-ips 10\.5\.3\.0\/24$/, /fd00:5:0:3::\/64$/])
  t.end()
})

t.test('a record that cannot be a peer is left out, and says why', t => {
  const bad = (backendData: unknown): string | undefined =>
    why([host(2, { backendData })])[0]
  for (const data of [
    null,
    undefined,
    'text',
    {},
    { PublicKey: 5 },
    { PublicKey: '' },
    { PublicKey: `${key(2)} allowed-ips 0.0.0.0/0` },
    { PublicKey: key(2).replace('=', '') },
    { PublicKey: key(2), Port: 65_536 },
    { PublicKey: key(2), Port: 1.5 },
    { PublicKey: key(2), Port: '51820' },
  ])
    t.equal(bad(data), 'its record has no PublicKey', JSON.stringify(data))
  t.equal(bad({ PublicKey: OWN, Port: 1 }), 'its PublicKey is ours')
  t.match(
    why([host(2), host(3, host(2).holder)])[0],
    /^its PublicKey is that of 10\.5\.2/,
  )
  const nowhere = host(2)
  Reflect.deleteProperty(nowhere.holder, 'publicIp')
  t.match(why([nowhere])[0], /no PublicIP/)
  t.end()
})
