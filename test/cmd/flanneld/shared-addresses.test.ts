import t from 'tap'
import { SharedAddresses } from '../../../cmd/flanneld/shared-addresses.js'
import type { Remote } from '../../../lib/backend/backend.js'
import { parseSubnetKey } from '../../../lib/subnet/subnet-key.js'

const remote = (name: string): Remote => ({
  subnet: parseSubnetKey(name),
  holder: { backendType: '' },
})

t.test('remotes with one public address are told, as long as there are two', t => {
  const shared = new SharedAddresses()
  const [one, two, three] = ['10.5.1.0-24', '10.5.2.0-24', '10.5.3.0-24'].map(remote)

  shared.add('192.0.2.1', one!)
  shared.add('192.0.2.2', two!)
  t.equal(shared.describe(), undefined)
  shared.add('192.0.2.1', three!)
  t.equal(
    shared.describe(),
    '10.5.1.0/24, 10.5.3.0/24 share the public address 192.0.2.1: only one host of each is reached; give each an address of its own (--public-ip)',
  )
  shared.delete('192.0.2.1', one!)
  shared.delete('192.0.2.9', one!)
  t.equal(shared.describe(), undefined)
  t.end()
})
