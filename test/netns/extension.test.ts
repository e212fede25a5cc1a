/** Two hosts whose packets travel by commands of the operator's: flannel's example of VXLAN. */
import { mkdtempSync, rmSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { openPair, passes } from './open-pair.js'
import { waitFor } from '../helpers/wait-for.js'

const ETCD = '--endpoints=http://192.0.2.1:2379'
const SUBNETS = '/coreos.com/network/subnets'
const EXAMPLE = fileURLToPath(
  new URL('../../../packaging/extension/vxlan', import.meta.url),
)

/** Writes down what it is told, and hangs when that says so; else it is the example. */
const WATCHED = (log: string): string => `#!/bin/sh
[ "$1" = add ] || [ "$1" = remove ] || exec '${EXAMPLE}' "$@"
read -r data
printf '%s %s %s <%s>\\n' "$1" "$SUBNET" "$PUBLIC_IP" "$data" >> '${log}'
[ "$1 $data" != 'add hang' ] || exec sleep 1000
echo "$data" | exec '${EXAMPLE}' "$@"
`

const directory = mkdtempSync(join(tmpdir(), 'extension-'))
t.teardown(() => {
  rmSync(directory, { recursive: true })
})
const log = join(directory, 'log')
const program = join(directory, 'a program')
await writeFile(log, '')
await writeFile(program, WATCHED(log), { mode: 0o755 })

const command = (word: string): string => `'${program}' ${word}`
const pair = await openPair(t, 'ext', {
  Network: '10.5.0.0/16',
  SubnetMax: '10.5.239.0',
  Backend: {
    Type: 'extension',
    PreStartupCommand: command('start'),
    PostStartupCommand: command('started'),
    SubnetAddCommand: command('add'),
    SubnetRemoveCommand: command('remove'),
  },
})

const lines = async (): Promise<string[]> =>
  (await readFile(log, 'utf8')).split('\n').filter(line => line !== '')

/** Another host's record. */
async function put(number: number, data: string): Promise<void> {
  const record = {
    PublicIP: `192.0.2.${number}`,
    BackendType: 'extension',
    BackendData: data,
  }
  const key = `${SUBNETS}/10.5.${number}.0-24`
  await pair.inside(1, 'etcdctl', ETCD, 'put', key, JSON.stringify(record))
}

const remove = (number: number): Promise<string> =>
  pair.inside(1, 'etcdctl', ETCD, 'del', `${SUBNETS}/10.5.${number}.0-24`)

t.test('packets pass by the devices that the commands make', async t => {
  await passes(pair, 4)
  const rate = await pair.transfer(4)
  t.ok(rate > 10, `${rate.toFixed(0)} Mbit/s`)
  t.match(await pair.inside(1, 'ip', 'route'), ' dev flannel-vxlan onlink')
})

t.test('what a record says is input, and nothing else', async t => {
  const file = join(directory, 'made by a peer')
  const hostile = [`$(touch '${file}')`, `\`touch '${file}'\``, `; touch '${file}' #`]
  for (const [index, data] of hostile.entries()) await put(241 + index, data)
  await waitFor('both hosts are told', async () => {
    const told = await lines()
    return hostile.every(
      data => told.filter(line => line.includes(`<${data}>`)).length >= 2,
    )
  })
  await t.rejects(readFile(file))
  await waitFor('it is a trouble', async () => {
    const { troubles } = await pair.status(1)
    return /Backend\.SubnetAddCommand: .*not a MAC/.test(troubles['backend'] ?? '')
  })
  for (const [index] of hostile.entries()) await remove(241 + index)
})

t.test('flannelctl watch tells what changes', async t => {
  const watching = pair.watch(1)
  await waitFor('it begins', () => watching.text().includes('2 subnets are held'))
  await put(244, '02:00:00:00:00:f4')
  await waitFor('it tells who comes', () =>
    watching.text().includes('joined   10.5.244.0/24 192.0.2.244, extension, reserved'),
  )
  await remove(244)
  await waitFor('and what goes', () => watching.text().includes('left     10.5.244.0/24'))
  // It begins to listen to the kernel at some time of its own.
  await waitFor('and of routes', async () => {
    const route = ['10.5.249.0/24', 'dev', 'eth0', 'proto', '76']
    await pair.inside(1, 'ip', 'route', 'add', ...route)
    await pair.inside(1, 'ip', 'route', 'delete', ...route)
    const text = watching.text()
    return (
      text.includes('route  10.5.249.0/24 dev eth0') &&
      text.includes('route gone  10.5.249.0/24 dev eth0')
    )
  })
  t.equal(await watching.interrupt(), 0)
})

t.test('a command that hangs stops nothing', async t => {
  await put(251, 'hang')
  await waitFor('it hangs', async () =>
    (await lines()).some(line => line.includes('<hang>')),
  )
  await passes(pair, 4)
  t.match((await pair.status(1)).phase, 'ready')
  const begin = performance.now()
  await pair.restart(1, 'SIGTERM', [])
  t.pass(`a restart took ${(performance.now() - begin).toFixed(0)} ms`)
  await remove(251)
  await passes(pair, 4)
})

t.test('a host that has left while the daemon was down is told of', async t => {
  await put(252, '02:00:00:00:00:fc')
  const told = (what: string) => async (): Promise<boolean> =>
    (await lines()).filter(line => line.startsWith(`${what} 10.5.252.0/24`)).length >= 2
  await waitFor('both hosts add it', told('add'))
  await pair.stop(1, 'SIGTERM')
  await remove(252)
  await pair.restart(1, 'SIGKILL', [])
  await waitFor('both hosts remove it', told('remove'))
  t.equal(
    (await lines()).findLast(line => line.startsWith('remove 10.5.252.0/24')),
    'remove 10.5.252.0/24 192.0.2.252 <02:00:00:00:00:fc>',
    'with what was told of it',
  )
})

t.test("flannel's example of host-gw is two lines that need no program", async t => {
  const config = {
    Network: '10.5.0.0/16',
    SubnetMax: '10.5.239.0',
    Backend: {
      Type: 'extension',
      SubnetAddCommand: 'ip route replace $SUBNET via $PUBLIC_IP',
      SubnetRemoveCommand: 'ip route delete $SUBNET via $PUBLIC_IP',
    },
  }
  const put = ['put', '/coreos.com/network/config', JSON.stringify(config)]
  await pair.inside(1, 'etcdctl', ETCD, ...put)
  for (const side of [1, 2] as const)
    await pair.inside(side, 'ip', 'link', 'delete', 'flannel-vxlan')
  await Promise.all(([1, 2] as const).map(side => pair.restart(side, 'SIGTERM', [])))
  await passes(pair, 4, 1500)
  const subnet = pair.addressOf(2, 4).replace(/1$/, '0/24')
  t.match(await pair.inside(1, 'ip', 'route'), `${subnet} via 192.0.2.2 dev eth0`)
})
