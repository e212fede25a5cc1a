import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { tryLockFile } from '../../../lib/linux/file-lock.js'
import { readSysctl, writeSysctl } from '../../../lib/linux/sysctl.js'
import { waitFor } from '../../helpers/wait-for.js'

const MODULE = new URL('../../../lib/linux/file-lock.js', import.meta.url).href

t.test('a lock is taken once, and again after it was released', t => {
  const path = join(t.testdir(), 'lock')

  const lock = tryLockFile(path)
  t.ok(lock)
  t.equal(statSync(path).mode & 0o777, 0o600)
  t.equal(tryLockFile(path), undefined)
  lock?.release()
  const again = tryLockFile(path)
  t.ok(again)
  again?.release()
  t.end()
})

t.test('another process is refused until the holder ends, even by kill -9', async t => {
  const path = join(t.testdir(), 'lock')
  const program = `
    const { tryLockFile } = await import(${JSON.stringify(MODULE)})
    console.log(tryLockFile(${JSON.stringify(path)}) ? 'locked' : 'refused')
    setInterval(() => {}, 1000)`
  const args = ['--pdeathsig', 'KILL', '--', process.execPath, '--input-type=module']
  const holder = spawn('setpriv', [...args, '-e', program])
  t.teardown(() => holder.kill('SIGKILL'))
  const [said] = (await once(holder.stdout, 'data')) as [Buffer]
  t.equal(said.toString(), 'locked\n')

  t.equal(tryLockFile(path), undefined)
  holder.kill('SIGKILL')
  const lock = await waitFor('the lock', () => tryLockFile(path))
  lock.release()
})

t.test('a lock in a directory that is not there throws, naming it', t => {
  t.throws(() => tryLockFile('/nowhere/lock'), { code: 'ENOENT' })
  t.end()
})

t.test(
  'a kernel setting is read as text; one that no kernel has is undefined',
  async t => {
    const path = 'kernel/pid_max'
    t.equal(await readSysctl(path), readFileSync(`/proc/sys/${path}`, 'utf8').trim())
    t.equal(await readSysctl('net/ipv4/conf/no-such-device/forwarding'), undefined)
    await t.resolves(writeSysctl('net/ipv4/conf/no-such-device/forwarding', '1'))
  },
)
