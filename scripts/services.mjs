import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * invoke-rc.d and deb-systemd-invoke ask this program before they start a
 * service; 101 is "forbidden" (/usr/share/doc/init-system-helpers/README.policy-rc.d.gz).
 */
const POLICY = '/usr/sbin/policy-rc.d'
const FORBID = '#!/bin/sh\n# In place while flanneld installs packages.\nexit 101\n'

/**
 * Runs `install` while no Debian package may start a service. What the
 * administrator had in that place comes back afterwards, whatever happens; if
 * this process is killed, the next call puts it back.
 */
export async function withoutServices(install, { policy = POLICY } = {}) {
  const unlock = await lock(dirname(policy))
  try {
    await allow(policy)
    await forbid(policy)
    return await install()
  } finally {
    await allow(policy)
    await unlock()
  }
}

async function forbid(policy) {
  await rename(policy, savedName(policy)).catch(ignoreMissing)
  await writeFile(policy, FORBID, { mode: 0o755 })
}

/** Takes away what forbids, if it is there: what is not ours stays. */
async function allow(policy) {
  const present = await readFile(policy, 'utf8').catch(ignoreMissing)
  if (present === FORBID) await rm(policy)
  if (present === FORBID || present === undefined) {
    await rename(savedName(policy), policy).catch(ignoreMissing)
  }
}

function savedName(policy) {
  return `${policy}.before-flanneld`
}

function ignoreMissing(error) {
  if (error.code !== 'ENOENT') throw error
}

/**
 * Waits until no other installation holds the lock. The kernel gives it back
 * when flock(1)'s child ends, which reads from us and so ends with us.
 */
async function lock(directory) {
  const holder = spawn('flock', [directory, 'sh', '-c', 'echo locked; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  })
  const ended = once(holder, 'close')
  await Promise.race([once(holder.stdout, 'data'), ended])
  return async () => {
    holder.stdin.end()
    await ended
  }
}

/**
 * The units that systemd starts at boot, by what is linked below
 * /etc/systemd/system: packages link theirs on installation.
 */
export function unitsStartedAtBoot(directory = '/etc/systemd/system') {
  return list(directory)
    .filter(entry => entry.isDirectory() && /\.(wants|requires)$/.test(entry.name))
    .flatMap(({ name }) => list(`${directory}/${name}`))
    .filter(entry => entry.isSymbolicLink())
    .map(entry => entry.name)
}

function list(directory) {
  try {
    return readdirSync(directory, { withFileTypes: true })
  } catch (error) {
    if (error.code === 'ENOENT') return []
    throw error
  }
}
