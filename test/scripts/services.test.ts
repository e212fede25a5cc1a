import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, readdir, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { loadScript } from './load-script.js'

const { withoutServices, unitsStartedAtBoot } = (await loadScript('services.mjs')) as {
  withoutServices: <T>(
    install: () => Promise<T>,
    options: { policy: string },
  ) => Promise<T>
  unitsStartedAtBoot: (directory: string) => string[]
}

const ADMINISTRATORS = '#!/bin/sh\n# mine\nexit 104\n'

/** What invoke-rc.d would hear. */
async function ask(policy: string): Promise<unknown> {
  const [exitCode] = (await once(spawn(policy, ['etcd', 'start']), 'close')) as unknown[]
  return exitCode
}

t.test('services are forbidden during an installation, and only then', async t => {
  const policy = join(t.testdir(), 'policy-rc.d')

  const answer = await withoutServices(() => ask(policy), { policy })

  t.equal(answer, 101)
  await t.rejects(stat(policy), { code: 'ENOENT' })
})

t.test(
  "the administrator's policy comes back after an installation that failed",
  async t => {
    const directory = t.testdir()
    const policy = join(directory, 'policy-rc.d')
    await writeFile(policy, ADMINISTRATORS, { mode: 0o755 })

    const installation = withoutServices(
      async () => {
        t.equal(await ask(policy), 101)
        throw new Error('no space left')
      },
      { policy },
    )

    await t.rejects(installation, { message: 'no space left' })
    t.equal(await readFile(policy, 'utf8'), ADMINISTRATORS)
    t.equal(await ask(policy), 104, 'its mode comes back too')
    t.same(await readdir(directory), ['policy-rc.d'])
  },
)

t.test('what a killed installation left is put right by the next', async t => {
  const directory = t.testdir()
  const policy = join(directory, 'policy-rc.d')
  await writeFile(policy, ADMINISTRATORS, { mode: 0o755 })
  const script = new URL('../../../scripts/services.mjs', import.meta.url).href
  const killed = spawn(process.execPath, [
    '--input-type=module',
    '--eval',
    `import { withoutServices } from ${JSON.stringify(script)}
     await withoutServices(() => process.kill(process.pid, 'SIGKILL'), { policy: ${JSON.stringify(policy)} })`,
  ])
  await once(killed, 'close')
  t.equal(await ask(policy), 101, 'the killed one could not clean up')

  await withoutServices(() => Promise.resolve(), { policy })

  t.equal(await readFile(policy, 'utf8'), ADMINISTRATORS)
  t.same(await readdir(directory), ['policy-rc.d'])
})

t.test('two installations at once take turns', async t => {
  const directory = t.testdir()
  const policy = join(directory, 'policy-rc.d')
  await writeFile(policy, ADMINISTRATORS, { mode: 0o755 })
  const order: string[] = []
  const install = (name: string) => async () => {
    order.push(`${name} begins`)
    t.equal(await ask(policy), 101)
    order.push(`${name} ends`)
  }

  await Promise.all([
    withoutServices(install('first'), { policy }),
    withoutServices(install('second'), { policy }),
  ])

  t.same(
    order.map(line => line.split(' ')[1]),
    ['begins', 'ends', 'begins', 'ends'],
  )
  t.equal(await readFile(policy, 'utf8'), ADMINISTRATORS)
})

t.test('units that a package switched on are found', async t => {
  const directory = t.testdir()
  await mkdir(join(directory, 'multi-user.target.wants'))
  await symlink(
    '/lib/systemd/system/etcd.service',
    join(directory, 'multi-user.target.wants', 'etcd.service'),
  )
  await symlink('/lib/systemd/system/ssh.service', join(directory, 'sshd.service'))

  t.same(unitsStartedAtBoot(directory), ['etcd.service'])
  t.same(unitsStartedAtBoot(join(directory, 'nowhere')), [])
})
