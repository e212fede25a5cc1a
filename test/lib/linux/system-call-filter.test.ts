import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import t from 'tap'

const FILTER = new URL('../../../lib/linux/system-call-filter.js', import.meta.url)
const LIBC = new URL('../../../lib/linux/libc.js', import.meta.url)

const PR_SET_NO_NEW_PRIVS = 38

/** Tries each in a process that has confined itself; what comes of it. */
const PROGRAM = `
import { spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { readFileSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { once } from 'node:events'
import { connect } from 'node:net'
import * as libc from '${LIBC.href}'
import { refuseNewResources } from '${FILTER.href}'

const codeOf = act => {
  try {
    return act() ?? 'done'
  } catch (error) {
    return error.code
  }
}
const ofSocket = async socket => {
  const [error] = await once(socket, 'error')
  return error.code
}
readFileSync('/etc/hostname')
libc.prctl(${PR_SET_NO_NEW_PRIVS}, 1, 0, 0, 0)
const isConfined = refuseNewResources()
const results = {
  isConfined,
  read: codeOf(() => readFileSync('/etc/hostname') && 'read'),
  write: codeOf(() => writeFileSync('/tmp/flanneld-filter-test', 'x')),
  run: codeOf(() => spawnSync('/bin/true').error?.code),
  tcp: await ofSocket(connect(9, '127.0.0.1')),
  unix: await ofSocket(connect('/run/nothing')),
  udp: libc.socket(2, 2, 0) > 0,
  udp6: libc.socket(10, 2, 0) > 0,
  raw: libc.socket(2, 3, 1),
  netlink: libc.socket(16, 3, 0),
  icmp: libc.socket(2, 2, 1),
  kill: codeOf(() => process.kill(process.pid, 0)),
  truncate: codeOf(() => truncateSync('/tmp/flanneld-filter-test')),
  ring: libc.syscall(426, 0, 0, null) < 0 && libc.errno(),
}
writeSync(1, JSON.stringify(results))
// As the packet path ends: newer versions of Node.js would wind up a ring that is refused.
libc.exitNow(0)
`

t.test('a process that has confined itself gets nothing new', async t => {
  const args = ['--input-type=module', '--eval', PROGRAM]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  const output = text(child.stdout)
  const [code] = (await once(child, 'exit')) as [number | null]
  t.equal(code, 0)
  t.strictSame(JSON.parse(await output), {
    isConfined: true,
    read: 'EPERM',
    write: 'EPERM',
    run: 'EPERM',
    tcp: 'EPERM',
    unix: 'EPERM',
    udp: true,
    udp6: true,
    raw: -1,
    netlink: -1,
    icmp: -1,
    kill: 'EPERM',
    truncate: 'EPERM',
    ring: 1,
  })
})
