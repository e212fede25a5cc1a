import t from 'tap'
import {
  LAB_NAME,
  MAX_HOSTS,
  containerAddresses,
  hostAddress,
  namespacesOf,
  refuseNetwork,
} from '../../../../cmd/flannelctl/lab/topology.js'

t.test('a lab has a namespace for the underlay and two for each host', t => {
  t.same(namespacesOf('lab', 2), [
    'lab-underlay',
    'lab-host1',
    'lab-c1',
    'lab-host2',
    'lab-c2',
  ])
  t.end()
})

t.test('every host that may be asked for has an address in the underlay', t => {
  t.equal(hostAddress(1), '192.168.77.11')
  t.equal(hostAddress(MAX_HOSTS), '192.168.77.110')
  t.end()
})

t.test('the bridge has the first address of a subnet and the container the second', t => {
  t.same(containerAddresses('10.5.72.1/24'), {
    bridge: '10.5.72.1/24',
    gateway: '10.5.72.1',
    container: '10.5.72.2',
    length: 24,
  })
  t.throws(() => containerAddresses(''), SyntaxError)
  t.end()
})

t.test('a network that the lab cannot have is refused with the reason', t => {
  t.equal(refuseNetwork('10.5.0.0/16'), undefined)
  t.match(refuseNetwork('192.168.0.0/16'), 'overlaps 192.168.77.0/24')
  t.match(refuseNetwork('fd00::/48'), 'IPv4')
  t.match(refuseNetwork('10.5.0.0'), 'not an address range')
  t.end()
})

t.test('a name that could be part of a path or an option is none', t => {
  for (const name of ['lab', 't-udp', '2nd']) t.match(name, LAB_NAME)
  for (const name of ['', '-x', '../x', 'a/b', 'a b', 'LAB', 'x'.repeat(21)])
    t.notMatch(name, LAB_NAME)
  t.end()
})
