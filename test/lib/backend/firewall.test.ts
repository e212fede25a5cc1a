/** The firewall's looks: what is right is left as it is, whatever happens besides. */
import t from 'tap'
import { Firewall, findRules, removeRules } from '../../../lib/backend/firewall.js'
import { run } from '../../../lib/linux/run.js'
import { parsePrefix } from '../../../lib/subnet/prefix.js'
import { inOwnNetwork } from '../../helpers/own-network.js'

const FAMILIES = [
  { network: parsePrefix('10.5.0.0/16'), subnet: parsePrefix('10.5.1.0/24') },
  { network: parsePrefix('fd00:5::/48'), subnet: parsePrefix('fd00:5:0:1::/64') },
]
const OTHERS = [
  { network: parsePrefix('10.6.0.0/16'), subnet: parsePrefix('10.6.1.0/24') },
]

/** More than there are between two choices of the kind of iptables. */
const LOOKS = 26

await inOwnNetwork(t, import.meta.url, () => {
  for (const isNft of [false, true]) {
    const options = { forward: true, masquerade: true, randomFully: true, isNft }
    const mode = isNft ? 'nftables' : 'iptables'

    t.test(`${mode}: right once, and left alone for ever`, async t => {
      const firewall = new Firewall({ ...options, families: FAMILIES })

      t.equal((await firewall.ensure()).length, 4)
      const before = await run('nft', ['-a', 'list', 'ruleset'])
      for (let look = 0; look < LOOKS; look++) t.strictSame(await firewall.ensure(), [])
      t.strictSame(await firewall.removeOthers(), [])
      t.equal(await run('nft', ['-a', 'list', 'ruleset']), before, 'no rule is a new one')
    })

    t.test(`${mode}: the other mode goes, and a second daemon's stays`, async t => {
      const others = new Firewall({ ...options, families: OTHERS, masquerade: false })
      await others.ensure()
      const there = (await findRules(OTHERS)).toSorted()

      const firewall = new Firewall({ ...options, families: FAMILIES, isNft: !isNft })
      await firewall.ensure()
      // Whether nftables needs forward rules of iptables is found out at each look.
      t.equal((await firewall.removeOthers()).length, isNft ? 4 : 2)
      t.strictSame(await others.ensure(), [], 'the second has nothing to put back')

      await removeRules(FAMILIES)
      t.strictSame(await findRules(FAMILIES), [])
      t.strictSame((await findRules(OTHERS)).toSorted(), there)
      await removeRules(OTHERS)
      t.notMatch(await run('nft', ['list', 'ruleset']), /flannel/i)
    })
  }

  t.test('one that is asked for no more goes', async t => {
    const both = {
      families: FAMILIES,
      forward: true,
      masquerade: true,
      randomFully: true,
    }
    await new Firewall({ ...both, isNft: true }).ensure()
    const firewall = new Firewall({ ...both, masquerade: false, isNft: true })
    await firewall.ensure()

    t.strictSame(await firewall.removeOthers(), [
      'nft ip flannel-ipv4 postrtg',
      'nft ip6 flannel-ipv6 postrtg',
    ])
    t.strictSame(await firewall.ensure(), [])
    await removeRules(FAMILIES)
  })
})
