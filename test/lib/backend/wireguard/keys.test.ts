import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { planBackend } from '../../../../lib/backend/backends.js'
import { obtainKey, publicKeyOf } from '../../../../lib/backend/wireguard/keys.js'
import { backendContext } from '../../../helpers/backend-context.js'

/** RFC 7748, section 6.1. */
const PRIVATE = 'dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo='
const PUBLIC = 'hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo='

function place(t: Test): string {
  const directory = join(t.testdir(), 'state')
  mkdirSync(directory)
  return directory
}

t.test('the public key is computed from the private one', t => {
  t.equal(publicKeyOf(PRIVATE), PUBLIC)
  t.end()
})

t.test('a key that is made stays, and nobody else may read it', async t => {
  const directory = place(t)
  const first = await obtainKey(directory, undefined)
  t.equal(statSync(first.file).mode & 0o777, 0o400)
  t.equal(publicKeyOf(readFileSync(first.file, 'utf8').trim()), first.publicKey)
  t.strictSame(await obtainKey(directory, undefined), first)
  rmSync(first.file)
  t.not((await obtainKey(directory, undefined)).publicKey, first.publicKey)
})

t.test('a copy of a machine makes keys and addresses of its own', async t => {
  const directory = place(t)
  for (const type of ['wireguard', 'vxlan']) {
    const config = { Network: '10.5.0.0/16', Backend: { Type: type } }
    const data = (): unknown =>
      planBackend(backendContext(config, directory)).leaseData?.()
    const first = await data()
    t.strictSame(await data(), first, type)
    await planBackend(backendContext(config, directory)).forget?.()
    t.notSame(await data(), first, type)
  }
})

t.test('a key that was not written to its end is no key', async t => {
  const directory = place(t)
  writeFileSync(join(directory, 'wireguard-key'), '')
  t.match(await obtainKey(directory, undefined), { publicKey: String })
})

t.test("the operator's file is read, or made", async t => {
  const directory = place(t)
  const file = join(directory, 'mine')
  writeFileSync(file, PRIVATE)
  t.strictSame(await obtainKey(directory, file), { file, publicKey: PUBLIC })
  const other = join(directory, 'other')
  const { publicKey } = await obtainKey(directory, other)
  t.equal(publicKeyOf(readFileSync(other, 'utf8').trim()), publicKey)
})

t.test('a file that is no key is named, and left as it is', async t => {
  const directory = place(t)
  const file = join(directory, 'mine')
  for (const text of ['', 'secret words', PRIVATE.slice(1), `${PRIVATE}\n${PRIVATE}`]) {
    writeFileSync(file, text)
    await t.rejects(obtainKey(directory, file), {
      code: 'ERR_DEVICE',
      message: `${file} holds no WireGuard key; remove it, or write one there with wg genkey`,
    })
    t.equal(readFileSync(file, 'utf8'), text)
  }
  await t.rejects(obtainKey(directory, join(directory, 'no', 'place')), {
    message: /^cannot keep the WireGuard key: ENOENT/,
  })
  await t.rejects(obtainKey(directory, directory), { message: /^cannot read a key: / })
})
