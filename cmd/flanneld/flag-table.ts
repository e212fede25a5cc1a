/** What a flag takes. `strings` may be given several times. */
export type FlagType = 'string' | 'strings' | 'boolean' | 'integer'

export interface Flag {
  readonly type: FlagType
  /** As text, the way it would be written; '' for none. */
  readonly default: string
  readonly describe: string
  readonly choices?: readonly string[]
  /** False for a flag that no environment variable sets. */
  readonly environment?: false
  /** Why the flag is known and yet refused when it is given; a boolean may be switched off. */
  readonly refused?: string
}

const KUBE = 'the Kubernetes subnet manager is not implemented; leases come from etcd'
const KLOG = 'is a setting of klog; use --log-level'

/** How etcd is reached: the same for flanneld and flannelctl. */
export const ETCD_FLAGS = {
  'etcd-endpoints': {
    type: 'string',
    default: 'http://127.0.0.1:4001,http://127.0.0.1:2379',
    describe:
      'comma-separated list of etcd endpoints; srv://example.com for those that DNS names',
  },
  'etcd-prefix': {
    type: 'string',
    default: '/coreos.com/network',
    describe: 'etcd prefix of the network configuration and leases',
  },
  'etcd-keyfile': {
    type: 'string',
    default: '',
    describe: 'file of the key that secures etcd communication',
  },
  'etcd-certfile': {
    type: 'string',
    default: '',
    describe: 'file of the client certificate for etcd',
  },
  'etcd-cafile': {
    type: 'string',
    default: '',
    describe: 'file of the certificate authority that etcd is checked against',
  },
  'etcd-username': { type: 'string', default: '', describe: 'user name for etcd' },
  'etcd-password': {
    type: 'string',
    default: '',
    describe:
      'password for etcd; visible in the process list, prefer --etcd-password-file',
  },
  'etcd-password-file': {
    type: 'string',
    default: '',
    describe: 'file that holds the password for etcd',
  },
  'etcd-insecure-password': {
    type: 'boolean',
    default: 'false',
    describe: 'send the password for etcd in clear to other machines over plain HTTP',
  },
} as const satisfies Record<string, Flag>

/** Where this host keeps its files: the same for flanneld and flannelctl. */
export const PLACE_FLAGS = {
  'subnet-file': {
    type: 'string',
    default: '/run/flannel/subnet.env',
    describe: 'environment file for the container runtime (subnet, MTU, …)',
  },
  'state-dir': {
    type: 'string',
    default: '/var/lib/flannel',
    describe: 'directory of what outlives a reboot: host id, keys',
  },
  'run-dir': {
    type: 'string',
    default: '/run/flannel',
    describe: 'directory of sockets and locks',
  },
} as const satisfies Record<string, Flag>

/** Every flag of flanneld: flannel's in etcd mode with its defaults, then ours. */
export const FLANNELD_FLAGS = {
  ...ETCD_FLAGS,
  ...PLACE_FLAGS,
  iface: {
    type: 'strings',
    default: '',
    describe:
      'interface (name or IP) for traffic between hosts; several are tried in order',
  },
  'iface-regex': {
    type: 'strings',
    default: '',
    describe: 'regular expression for addresses, then names, tried after --iface',
  },
  'iface-timeout': {
    type: 'integer',
    default: '0',
    describe: 'seconds to wait for an interface or default route that is not there yet',
  },
  'iface-can-reach': {
    type: 'string',
    default: '',
    describe: 'take the interface by which this IP is reached',
  },
  'public-ip': {
    type: 'string',
    default: '',
    describe: 'IPv4 address that other hosts reach this host by',
  },
  'public-ipv6': {
    type: 'string',
    default: '',
    describe: 'IPv6 address that other hosts reach this host by',
  },
  'subnet-lease-renew-margin': {
    type: 'integer',
    default: '60',
    describe:
      'minutes before its end at which a lease that was not renewed is reported (1 to 1439)',
  },
  'subnet-lease-ttl': {
    type: 'string',
    default: '24h',
    describe: 'how long the subnet stays ours when we are gone, 60s to 24h',
  },
  'release-on-exit': {
    type: 'boolean',
    default: 'false',
    describe: 'give the subnet back when the daemon stops',
  },
  'on-subnet-change': {
    type: 'string',
    default: '',
    describe:
      'command to run, without a shell, when this host has got another subnet (such as systemctl start subnet-changed)',
  },
  'ip-masq': {
    type: 'boolean',
    default: 'false',
    describe: 'masquerade traffic that leaves the overlay network',
  },
  'ip-masq-fully-random-disable': {
    type: 'boolean',
    default: 'false',
    describe: 'masquerade without --random-fully',
  },
  'iptables-forward-rules': {
    type: 'boolean',
    default: 'true',
    describe: 'accept overlay traffic in the FORWARD chain',
  },
  'iptables-resync': {
    type: 'integer',
    default: '5',
    describe: 'seconds between two checks of the rules of the firewall',
  },
  'ip-blackhole-route': {
    type: 'boolean',
    default: 'false',
    describe: "drop packets to addresses of this host's subnet that no container has",
  },
  'healthz-ip': {
    type: 'string',
    default: '0.0.0.0',
    describe: 'address of the health server',
  },
  'healthz-port': {
    type: 'integer',
    default: '0',
    describe: 'port of the health server, 0 for none',
  },
  v: {
    type: 'integer',
    default: '0',
    describe: 'log verbosity as flannel has it: 1 and more is --log-level=debug',
  },
  'log-level': {
    type: 'string',
    default: 'info',
    choices: ['debug', 'info', 'warn', 'error'],
    describe: 'least important messages to log',
  },
  'log-format': {
    type: 'string',
    default: 'text',
    choices: ['text', 'json'],
    describe: 'for people or for programs',
  },
  'node-id': {
    type: 'string',
    default: '',
    describe:
      'name of this host in its lease; made once and kept in --state-dir unless given',
  },
  verify: {
    type: 'string',
    default: 'strict',
    choices: ['strict', 'inner', 'off'],
    describe:
      'which sources of a packet from another host are checked: outer and inner, inner alone, none',
  },
  'udp-queues': {
    type: 'integer',
    default: '1',
    describe: 'processes that carry the packets of the udp backend, 1 to 16',
  },
  'status-listen': {
    type: 'string',
    default: '',
    describe:
      'address and port that the status page and metrics are served on, as 127.0.0.1:9752; nowhere unless given',
  },
  'peer-port': {
    type: 'integer',
    default: '0',
    describe:
      "TCP port below 1024 on this host's address in the overlay where other hosts ask for their flannelctl why; 0 for none",
  },
  'probe-rate': {
    type: 'integer',
    default: '10',
    describe:
      'packets a second, for all remotes together, that measure the ways to them; 0 for none',
  },
  'names-zone': {
    type: 'string',
    default: '',
    describe:
      'DNS zone, such as containers.local, below which names of this host and its containers are published in etcd for CoreDNS; nowhere unless given',
  },
  'names-prefix': {
    type: 'string',
    default: '/skydns',
    describe: 'key in etcd below which those names are',
  },
  'docker-socket': {
    type: 'string',
    default: '/var/run/docker.sock',
    describe:
      'socket of the Docker engine whose containers get names; whoever may use it is root on this host',
  },
  'embedded-etcd': {
    type: 'boolean',
    default: 'false',
    describe: 'run an etcd of our own as a child process (first steps, single host)',
  },
  'embedded-etcd-data-dir': {
    type: 'string',
    default: '',
    describe: 'data directory of the embedded etcd; etcd in --state-dir unless given',
  },
  'embedded-etcd-listen': {
    type: 'string',
    default: 'http://127.0.0.1:2379',
    describe: 'client URL that the embedded etcd listens on',
  },
  'embedded-etcd-certfile': {
    type: 'string',
    default: '',
    describe:
      'server certificate of the embedded etcd; if it is not self-signed, name its authority with --etcd-cafile',
  },
  'embedded-etcd-keyfile': {
    type: 'string',
    default: '',
    describe: 'server key of the embedded etcd',
  },
  'embedded-etcd-insecure': {
    type: 'boolean',
    default: 'false',
    describe: 'let the embedded etcd listen on other than loopback addresses without TLS',
  },
  'init-network': {
    type: 'string',
    default: '',
    describe:
      'store this network (such as 10.5.0.0/16) as configuration if there is none',
  },
  'kube-subnet-mgr': {
    type: 'boolean',
    default: 'false',
    describe: 'refused',
    refused: KUBE,
  },
  'kube-api-url': { type: 'string', default: '', describe: 'refused', refused: KUBE },
  'kube-annotation-prefix': {
    type: 'string',
    default: 'flannel.alpha.coreos.com',
    describe: 'refused',
    refused: KUBE,
  },
  'kubeconfig-file': { type: 'string', default: '', describe: 'refused', refused: KUBE },
  'net-config-path': {
    type: 'string',
    default: '/etc/kube-flannel/net-conf.json',
    describe: 'refused',
    refused: KUBE,
  },
  'set-node-network-unavailable': {
    type: 'boolean',
    default: 'true',
    describe: 'refused',
    refused: KUBE,
  },
  vmodule: { type: 'string', default: '', describe: 'refused', refused: KLOG },
  log_backtrace_at: { type: 'string', default: '', describe: 'refused', refused: KLOG },
} as const satisfies Record<string, Flag>

/** `FLANNELD_` and the flag's name in capitals, as flannel reads it. */
export function environmentName(flag: string): string {
  return `FLANNELD_${flag.toUpperCase().replaceAll(/[-.]/g, '_')}`
}
