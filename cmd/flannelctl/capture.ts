import { once } from 'node:events'
import { type FileHandle, open } from 'node:fs/promises'
import { type PacketMatch, matchesPacket } from '../../lib/diagnosis/packet-match.js'
import { pcapngEnd, pcapngPacket, pcapngStart } from '../../lib/diagnosis/pcapng.js'
import { PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP } from '../../lib/encap/ip.js'
import { listLinks } from '../../lib/linux/ip-links.js'
import { PacketTap } from '../../lib/linux/packet-tap.js'
import {
  type Family,
  type Prefix,
  parseAddress,
  parsePrefix,
} from '../../lib/subnet/prefix.js'
import { parseSubnetText } from '../../lib/subnet/subnet-key.js'
import { UsageError } from '../flanneld/parse-flags.js'
import { VERSION } from '../flanneld/version.js'
import {
  COMMON_FLAGS,
  CommandFailure,
  EXIT,
  defineCommand,
  printJson,
  refuseWords,
} from './command.js'
import { type DaemonStatus, askDaemon } from './daemon-status.js'
import { interruption } from './interruption.js'

/** Packets are other people's letters: for the owner of the file alone. */
const MODE = 0o600

/** Until a Ctrl-C is noticed. */
const WAIT_MS = 100

/** Packets between two looks at the clock and at Ctrl-C. */
const BATCH = 256

const PROTOCOL_IPIP = 4
const PROTOCOL_ICMPV6 = 58

/** By the names that people use. */
const PROTOCOLS = {
  '': undefined,
  tcp: new Set([PROTOCOL_TCP]),
  udp: new Set([PROTOCOL_UDP]),
  icmp: new Set([PROTOCOL_ICMP, PROTOCOL_ICMPV6]),
} as const

export const captureCommand = defineCommand({
  help: `
flannelctl capture --output FILE [flags]

Writes packets of the overlay, as this host's device for it sends and receives them,
into a file for Wireshark and tcpdump (pcapng). --underlay takes what carries them
between the hosts instead, also of what is dropped here because of its sender. Ends
after --count packets, --seconds, or with Ctrl-C; says how many were written, and how
many were missed.

  flannelctl capture --output containers.pcapng
  flannelctl capture --output web.pcapng --host 10.5.9.2 --protocol tcp --port 80
  flannelctl capture --output hosts.pcapng --underlay --host 192.168.1.12
  flannelctl capture --output - | tcpdump -n -r -`,
  flags: {
    ...COMMON_FLAGS,
    output: {
      type: 'string',
      default: '',
      describe: 'file to write, which must not be there yet; - for standard output',
      environment: false,
    },
    underlay: {
      type: 'boolean',
      default: 'false',
      describe: 'take the packets between the hosts',
      environment: false,
    },
    host: {
      type: 'string',
      default: '',
      describe: 'only from and to this address, or this range such as 10.5.9.0/24',
      environment: false,
    },
    protocol: {
      type: 'string',
      choices: ['', 'tcp', 'udp', 'icmp'] as const,
      default: '',
      describe: 'only tcp, udp or icmp',
      environment: false,
    },
    port: {
      type: 'integer',
      default: '0',
      describe: 'only from and to this port of TCP or UDP; 0 for all',
      environment: false,
    },
    count: {
      type: 'integer',
      default: '10000',
      describe: 'packets, after which it ends; at most 1000000',
      environment: false,
    },
    seconds: {
      type: 'integer',
      default: '60',
      describe: 'after which it ends; at most 86400',
      environment: false,
    },
    'snapshot-length': {
      type: 'integer',
      default: '256',
      describe: 'bytes that are kept of each packet, 64 to 65535',
      environment: false,
    },
  },
  run: async (flags, words) => {
    refuseWords('capture', words)
    const { output, port } = flags
    const bound = (name: 'count' | 'seconds', most: number): number =>
      readNumber(name, flags[name], 1, most)
    const limits = { count: bound('count', 1_000_000), seconds: bound('seconds', 86_400) }
    const snapshotLength = readNumber(
      'snapshot-length',
      flags['snapshot-length'],
      64,
      65_535,
    )
    if (output === '')
      throw new UsageError('capture needs --output FILE, or - for a pipe')
    if (output === '-' && process.stdout.isTTY)
      throw new UsageError('packets are nothing for a terminal; give a file or a pipe')
    if (output === '-' && flags.json)
      throw new UsageError('--json tells of a file; with --output - there is none')
    const match: PacketMatch = {
      range: readRange(flags.host),
      protocols: PROTOCOLS[flags.protocol],
      ports: readNumber('port', port, 0, 65_535) === 0 ? undefined : new Set([port]),
    }
    const status = await askDaemon(flags)
    const source = chooseSource(status, flags.underlay, match.range?.family)
    const matches = (bytes: Uint8Array): boolean =>
      source.carriers.some(carrier => matchesPacket(bytes, carrier)) &&
      matchesPacket(bytes, match)
    const stop = interruption()
    const { device } = source
    const done = await capture(
      { device, output, matches, snapshotLength, ...limits },
      stop,
    )
    if (flags.json) printJson({ file: output, device, ...done })
    else
      process.stderr.write(
        `${done.packets} packets of ${device} written, ${done.missed} missed\n`,
      )
    return EXIT.ok
  },
})

function readNumber(name: string, value: number, least: number, most: number): number {
  if (value >= least && value <= most) return value
  throw new UsageError(`--${name} is ${value}; it takes ${least} to ${most}`)
}

function readRange(text: string): Prefix | undefined {
  if (text === '') return undefined
  try {
    if (text.includes('/')) return parsePrefix(text)
    const { family } = parseAddress(text)
    return parsePrefix(`${text}/${family === 4 ? 32 : 128}`)
  } catch {
    throw new UsageError(
      `--host is ${JSON.stringify(text)}; it takes an address or a range`,
    )
  }
}

interface Source {
  readonly device: string
  /** Of which one has to match. */
  readonly carriers: readonly PacketMatch[]
}

function chooseSource(
  status: DaemonStatus | undefined,
  isUnderlay: boolean,
  family: Family = 4,
): Source {
  const { backend, underlay, networks = [], remotes = [] } = status ?? {}
  if (backend === undefined || underlay === undefined)
    throw new CommandFailure(
      'flanneld has no device on this host; flannelctl status says why',
    )
  if (!isUnderlay) {
    // Some backends have a device for each family.
    const device =
      remotes.flatMap(each => familyDevice(each, family))[0] ?? backend.device
    // What else leaves by the interface of plain routes is nobody's business.
    const ranges = networks.map(parsePrefix)
    const isShared = device === underlay.device
    return { device, carriers: isShared ? ranges.map(range => ({ range })) : [{}] }
  }
  if (underlay.carrier === '')
    throw new CommandFailure(
      `with ${backend.type} packets are not carried in others: leave --underlay out`,
    )
  return {
    device: underlay.device,
    carriers: [
      { protocols: new Set([PROTOCOL_UDP]), ports: new Set(underlay.ports) },
      { protocols: new Set([PROTOCOL_IPIP]) },
    ],
  }
}

type Remote = NonNullable<DaemonStatus['remotes']>[number]

function familyDevice({ subnet, devices = [] }: Remote, family: Family): string[] {
  const at = parseSubnetText(subnet).findIndex(range => range.family === family)
  const device = devices[at]
  return device === undefined ? [] : [device]
}

interface Capture {
  readonly device: string
  readonly output: string
  readonly matches: (bytes: Uint8Array) => boolean
  readonly snapshotLength: number
  readonly count: number
  readonly seconds: number
}

async function capture(
  { device, output, matches, snapshotLength, count, seconds }: Capture,
  signal: AbortSignal,
): Promise<{ packets: number; missed: number }> {
  const link = (await listLinks()).find(({ name }) => name === device)
  if (link === undefined) throw new CommandFailure(`the device ${device} is gone`)
  const tap = PacketTap.open(link.index, snapshotLength)
  let packets = 0
  try {
    const file = await Output.open(output)
    const application = `flannelctl ${VERSION}`
    await file.write(pcapngStart({ application, device, snapshotLength }))
    const end = performance.now() + seconds * 1000
    while (!signal.aborted && packets < count && performance.now() < end) {
      tap.wait(WAIT_MS)
      for (let turn = 0; turn < BATCH && packets < count; turn++) {
        const packet = tap.next()
        if (packet === undefined) break
        if (!matches(packet.bytes)) continue
        packets += 1
        await file.write(pcapngPacket(packet))
      }
      // What blocks hears no signal.
      await new Promise(resolve => setImmediate(resolve))
    }
    const { missed } = tap
    const now = BigInt(Date.now()) * 1_000_000n
    await file.write(pcapngEnd(missed, now))
    await file.close()
    return { packets, missed }
  } finally {
    tap.close()
  }
}

/** Where the packets go; each write has happened, or has failed, when it resolves. */
class Output {
  readonly #file: FileHandle | undefined

  private constructor(file: FileHandle | undefined) {
    this.#file = file
  }

  /** Never over what is there, and never through a link. */
  static async open(path: string): Promise<Output> {
    return new Output(path === '-' ? undefined : await open(path, 'wx', MODE))
  }

  async write(bytes: Buffer): Promise<void> {
    if (this.#file !== undefined) await this.#file.write(bytes)
    else if (!process.stdout.write(bytes)) await once(process.stdout, 'drain')
  }

  async close(): Promise<void> {
    await this.#file?.close()
  }
}
