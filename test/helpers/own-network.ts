import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { TAP } from 'tap'

const INSIDE = 'FC_OWN_NETWORK'

/**
 * Runs a test file in network, process and mount namespaces of its own, which
 * the kernel takes away when it ends, with every process in them. Needs root.
 *
 * @param url import.meta.url of the test file, which is started again inside.
 */
export async function inOwnNetwork(
  t: TAP,
  url: string,
  tests: () => Promise<void> | void,
): Promise<void> {
  if (process.env[INSIDE] === undefined) {
    const program = [process.execPath, '--enable-source-maps', fileURLToPath(url)]
    const namespaces = [
      'unshare',
      '--net',
      '--pid',
      '--fork',
      '--kill-child',
      '--mount-proc',
      '--',
    ]
    await t.spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...namespaces, ...program], {
      env: { ...process.env, [INSIDE]: '1' },
    })
    return
  }
  ip('link set lo up')
  await tests()
}

/** Runs a line of ip(8). */
export function ip(line: string): string {
  return execFileSync('ip', line.split(' '), { encoding: 'utf8' })
}
