import { run } from '../../lib/linux/run.js'
import { readFile } from 'node:fs/promises'
import { formatSubnet } from '../../lib/subnet/subnet-key.js'
import type { DaemonContext } from './daemon.js'
import type { Serving } from './network-host.js'

/**
 * Shows a person who starts the daemon by hand what has come of it: on a
 * terminal, and for the embedded etcd, whose users are at their first steps.
 */
export async function printSummary(
  { flags, state }: DaemonContext,
  { subnet, backend, holder }: Serving,
): Promise<void> {
  if (!process.stdout.isTTY && !flags['embedded-etcd']) return
  const environment = await readFile(flags['subnet-file'], 'utf8')
  const routes = await run('ip', ['route', 'show'])
  const sections = [
    `flanneld is ${state.phase}: this host has subnet ${formatSubnet(subnet)} (device ${backend.device}, host id ${holder.hostId})`,
    `${flags['subnet-file']}:\n${indent(environment)}`,
    `ip route:\n${indent(routes)}`,
    'Ctrl-C stops it. The lease, the subnet file and the firewall rules stay.',
  ]
  console.log(`\n${sections.join('\n\n')}\n`)
}

function indent(text: string): string {
  return text.trimEnd().replaceAll(/^/gm, '  ')
}
