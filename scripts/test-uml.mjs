// npm run test:uml: the tests of what most kernels load as a module and containers cannot,
// on a Linux of its own that runs as a process (user-mode-linux). It sees this machine's
// files and may not write them. One slow core: for behaviour, not for speed.
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { build } from './build.mjs'
import {
  ROOT,
  ScriptError,
  exitCodeOf,
  main,
  start,
  untilInterrupted,
} from './command.mjs'
import {
  DAEMON_PROGRAMS,
  LAB_PROGRAMS,
  TEST_PROGRAMS,
  UML_PROGRAMS,
  installPrograms,
} from './debian-packages.mjs'
import { TapReport } from './tap-report.mjs'

/** More than one test that hangs takes until it is ended. */
const LIMIT_MS = 15 * 60_000

/** What the tests need of what is not built into that kernel; modprobe loads the rest. */
const MODULES = ['ipv6', 'ipip', 'veth']

const END = /^uml: exit code (\d+)$/

await main(async () => {
  if (process.getuid() !== 0)
    throw new ScriptError('the kernel mounts and loads: run it as root')
  await installPrograms([
    ...DAEMON_PROGRAMS,
    ...LAB_PROGRAMS,
    ...TEST_PROGRAMS,
    ...UML_PROGRAMS,
  ])
  await build()
  const files = readdirSync(join(ROOT, 'test/uml'))
    .filter(name => name.endsWith('.test.ts'))
    .map(name => join('dist/test/uml', name.replace(/ts$/, 'js')))
  const directory = mkdtempSync(join(tmpdir(), 'uml-'))
  try {
    return await runInside(directory, files)
  } finally {
    rmSync(directory, { recursive: true })
  }
})

async function runInside(directory, files) {
  const init = join(directory, 'init')
  writeFileSync(init, initScript(files))
  chmodSync(init, 0o755)
  // A mount point for what the tests write.
  mkdirSync(join(ROOT, '.tap'), { recursive: true })
  const report = new TapReport(console.log)
  let code
  await untilInterrupted(async interrupted => {
    const child = start(
      'linux.uml',
      [
        ...['mem=1G', 'rootfstype=hostfs', 'rootflags=/', 'ro', `init=${init}`],
        ...['quiet', 'con=null', 'con0=fd:0,fd:1'],
      ],
      { stdio: ['ignore', 'pipe', 'inherit'], env: { TMPDIR: directory } },
    )
    const ends = AbortSignal.any([interrupted, AbortSignal.timeout(LIMIT_MS)])
    ends.addEventListener('abort', () => child.kill('SIGKILL'), { once: true })
    createInterface({ input: child.stdout }).on('line', text => {
      const line = text.trimEnd()
      const end = END.exec(line)
      if (end !== null) {
        code = Number(end[1])
        report.end()
      } else if (code === undefined) report.push(line)
    })
    await exitCodeOf(child)
  })
  console.log(`${report.passed} passed, ${report.failed} failed`)
  return code ?? 1
}

function initScript(files) {
  return `#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for each in /run /tmp /var/tmp '${ROOT}/.tap'; do mount -t tmpfs tmpfs "$each"; done
mkdir -p /run/modules/lib /run/netns
ln -s /usr/lib/uml/modules /run/modules/lib/modules
for each in ${MODULES.join(' ')}; do
  modprobe -d /run/modules "$each" 2>/dev/null || echo "# no module $each"
done
ip link set lo up
cd '${ROOT}'
${process.execPath} scripts/run-tests.mjs ${files.join(' ')}
echo "uml: exit code $?"
halt -f
`
}
