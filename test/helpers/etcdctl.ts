import { execFileSync } from 'node:child_process'
import { ETCDCTL_ENVIRONMENT } from '../../cmd/flannelctl/lab/etcd.js'
import type { RealEtcd } from './real-etcd.js'

/** Runs a line of etcdctl(1) as root of a server with logins. */
export function etcdctl(etcd: RealEtcd, line: string, input?: string): string {
  const user = '--user=root:root'
  return run(etcd, [user, ...line.split(' ')], input)
}

/**
 * Gives an etcd users: root, and flannel with the password `secret`, who may read
 * /net/ and write below /net/subnets/.
 */
export function enableLogin(etcd: RealEtcd): void {
  const lines = [
    'user add root:root',
    'user grant-role root root',
    'user add flannel:secret',
    'role add flannel',
    'role grant-permission flannel --prefix=true read /net/',
    'role grant-permission flannel --prefix=true readwrite /net/subnets/',
    'user grant-role flannel flannel',
    'auth enable',
  ]
  for (const line of lines) run(etcd, line.split(' '))
}

function run(etcd: RealEtcd, args: readonly string[], input = ''): string {
  return execFileSync('etcdctl', [`--endpoints=${etcd.endpoint}`, ...args], {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], ...ETCDCTL_ENVIRONMENT },
    input,
    stdio: ['pipe', 'pipe', 'pipe'],
  })
}
