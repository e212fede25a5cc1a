import { type ChildProcess, spawn } from 'node:child_process'
import { renameSync, rmSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import type { ForwardingState } from '../../encap/forwarding-table.js'
import { PATH_PROTOCOL, type PathStatistics } from '../../encap/path-control.js'
import { formatEndpoint, formatPrefix } from '../../subnet/prefix.js'
import { formatSubnet } from '../../subnet/subnet-key.js'
import type { BackendContext } from '../backend.js'
import { BackendError } from '../errors.js'
import type { UdpContext } from '../udp.js'
import * as libc from '../../linux/libc.js'
import { isAttached } from '../../linux/tun.js'
import { BUILD } from './build.js'
import { listenerPid } from '../../linux/unix-socket.js'
import { endPath } from './end-path.js'
import { PathClient } from './path-client.js'
import {
  DEVICE_NAME,
  type Descriptors,
  type Handover,
  type QueueOptions,
  askForHandover,
  closeDescriptors,
  openDescriptors,
  openDoor,
  socketPath,
} from './path-descriptors.js'

const PROGRAM = fileURLToPath(new URL('./path-main.js', import.meta.url))

/** The path holds a batch of packets and a table; Node's own share is most of it. */
const HEAP_MB = 64

/** How often a running path is asked whether it still answers. */
const CHECK_INTERVAL_MS = 2000

/** Until a path that was started answers: Node's own start takes 50 ms, and seconds on a very busy machine. */
const START_TIMEOUT_MS = 15_000

/** Between two attempts to start a path, times their number. */
const RESTART_DELAY_MS = 200

/** A path that fails this often in a row is broken for good. */
const MAX_FAILURES = 5

/** What a path was started for, carried by its label. A daemon takes over only its equal. */
interface Purpose {
  readonly device: string
  readonly networks: readonly string[]
  /** A host that got another subnet must not go on sending from the one it had. */
  readonly subnet: string
  readonly listen: string
  readonly queue: number
  readonly queues: number
  /** Of the program: a path of another build is replaced, and hands over its descriptors. */
  readonly build: string
}

function purposeOf(context: UdpContext, queue: number, device: string): Purpose {
  const { config, subnet, address, port, queues } = context
  return {
    device,
    queue,
    queues,
    networks: config.families.map(({ network }) => formatPrefix(network)),
    subnet: formatSubnet(subnet),
    listen: formatEndpoint(address, port),
    build: BUILD,
  }
}

/** Ends the path of a queue that an earlier daemon left running, if there is one. */
export async function endLeftPath(
  context: Pick<BackendContext, 'runDir' | 'clock' | 'log'>,
  queue: number,
): Promise<void> {
  const pid = listenerPid(socketPath(context, queue))
  const client = await PathClient.connect(socketPath(context, queue))
  if (client === undefined) return
  try {
    context.log.info({ pid }, 'ending the packet path of an earlier run')
    await client.stop()
  } catch (error) {
    if (!(error instanceof BackendError)) throw error
    context.log.warn({ reason: error.message }, 'a packet path does not answer')
  } finally {
    client.close()
  }
  if (pid !== undefined) await endPath(pid, context.clock)
}

/**
 * Takes over the path of a queue that serves the same purpose. One of another
 * build has a successor started on its descriptors; one of another purpose is
 * ended.
 */
export async function findRunning(
  context: UdpContext,
  queue: number,
): Promise<PathProcess | undefined> {
  const listener = listenerPid(socketPath(context, queue))
  const client = await PathClient.connect(socketPath(context, queue))
  if (client === undefined) return undefined
  const { log } = context
  try {
    const { protocol, pid, label } = await client.hello()
    const purpose = parseLabel(label)
    const wanted = purpose && purposeOf(context, queue, purpose.device)
    if (
      protocol === PATH_PROTOCOL &&
      purpose !== undefined &&
      wanted !== undefined &&
      JSON.stringify({ ...purpose, build: BUILD }) === JSON.stringify(wanted)
    ) {
      client.close()
      return await takeOver(context, pid, wanted, purpose.build === BUILD)
    }
    log.info({ pid, was: label }, 'ending a packet path of another purpose')
    await client.stop()
    await endPath(pid, context.clock)
  } catch (error) {
    if (!(error instanceof BackendError)) throw error
    client.close()
    log.warn(
      { reason: error.message },
      'the running packet path does not answer; starting another',
    )
    // It holds the device and the port.
    if (listener !== undefined) await endPath(listener, context.clock)
  }
  return undefined
}

async function takeOver(
  context: UdpContext,
  pid: number,
  purpose: Purpose,
  isOurBuild: boolean,
): Promise<PathProcess> {
  const { device, queue } = purpose
  const handover = await askForHandover(context, queue, device)
  const client = await PathClient.connect(socketPath(context, queue))
  if (client === undefined) {
    closeDescriptors(handover.descriptors)
    throw new BackendError('ERR_PATH', 'the packet path ended meanwhile')
  }
  const running = { ...handover, client, pid, purpose }
  const path = new PathProcess(context, { queue, device }, running)
  context.log.info(
    { pid, device },
    isOurBuild
      ? 'took over the running packet path'
      : 'replacing a packet path of another build',
  )
  if (!isOurBuild) await path.succeed()
  return path
}

function parseLabel(label: string): Purpose | undefined {
  try {
    const purpose = JSON.parse(label) as Purpose
    return DEVICE_NAME.test(purpose.device) ? purpose : undefined
  } catch {
    return undefined // some other program's label: not ours to take over
  }
}

interface RunningPath {
  readonly client: PathClient
  readonly pid: number
  readonly purpose: Purpose
}

/** The packet path of one queue, kept running: what it was told last is told to its successor. */
export class PathProcess {
  /** A former daemon started it, or the path before it, and told that where the remotes are. */
  readonly wasTakenOver: boolean
  readonly #context: UdpContext
  #options: QueueOptions
  readonly #log: Logger
  #running: RunningPath | undefined
  #descriptors: Descriptors | undefined
  #state: ForwardingState | undefined
  #permitUntil = 0
  #failures = 0

  /** @param running a path to take over; without one, `start` comes next. */
  constructor(
    context: UdpContext,
    options: QueueOptions,
    running?: RunningPath & Handover,
  ) {
    this.#context = context
    this.#options = options
    this.#log = context.log
    this.wasTakenOver = running !== undefined
    if (running === undefined) return
    this.#running = running
    this.#descriptors = running.descriptors
    this.#state = running.knowledge.forwarding
    this.#permitUntil = running.knowledge.permitUntil
  }

  get device(): string {
    return this.#path().purpose.device
  }

  #path(): RunningPath {
    if (this.#running === undefined)
      throw new BackendError('ERR_PATH', 'no packet path is running')
    return this.#running
  }

  /**
   * Starts a path, on our descriptors if there are any, and gives it what the one
   * before had. Until it answers, the one before is the one that daemons reach.
   */
  async start(): Promise<void> {
    const { queue } = this.#options
    this.#descriptors ??= await openDescriptors(this.#context, this.#options)
    const purpose = purposeOf(this.#context, queue, this.#descriptors.tun.name)
    const door = openDoor(this.#context, queue)
    const child = spawnPath(purpose, [this.#descriptors, door.listener], this.#log)
    libc.close(door.listener)
    try {
      const client = await PathClient.connect(door.path)
      if (client === undefined)
        throw new BackendError('ERR_PATH', 'the packet path does not listen')
      const { pid } = await client.hello(START_TIMEOUT_MS)
      // In this order: with a state it reads packets, and without a permit it drops them.
      if (this.#permitUntil > 0) await client.permit(this.#permitUntil)
      if (this.#state !== undefined) await client.forward(this.#state)
      renameSync(door.path, socketPath(this.#context, queue))
      this.#running = { client, pid, purpose }
      this.#log.debug({ pid, device: purpose.device }, 'packet path started')
    } catch (error) {
      // One that answers late would read our packets.
      child.kill('SIGKILL')
      throw error
    }
  }

  /**
   * Starts a successor that knows what the running path knows, and ends that one
   * then: no packet is lost. When it does not start, the running path goes on.
   */
  async succeed(): Promise<void> {
    const predecessor = this.#path()
    try {
      await this.start()
    } catch (error) {
      if (!(error instanceof BackendError)) throw error
      this.#log.error(
        { reason: error.message },
        'the packet path of this build does not start; the one before goes on',
      )
      return
    }
    await this.#end(predecessor)
    await endPath(predecessor.pid, this.#context.clock)
  }

  async forward(state: ForwardingState): Promise<void> {
    this.#state = state
    await this.#path().client.forward(state)
  }

  async permit(untilMs: number): Promise<void> {
    this.#permitUntil = untilMs
    await this.#path().client.permit(untilMs)
  }

  async #end({ client }: RunningPath): Promise<void> {
    await client.stop().catch((error: unknown) => {
      this.#log.warn({ reason: String(error) }, 'the packet path did not stop by itself')
    })
    client.close()
  }

  /** Replaces a path that died or stopped answering. */
  async supervise(signal: AbortSignal): Promise<void> {
    const { clock } = this.#context
    for (;;) {
      const { client } = this.#path()
      await Promise.race([clock.sleep(CHECK_INTERVAL_MS, signal), client.closed])
      // Aborted means that the daemon is leaving, and the path is to be left alone.
      if (signal.aborted) return
      try {
        await client.statistics()
        this.#failures = 0
      } catch (error) {
        if (!(error instanceof BackendError)) throw error
        await this.#replace(error)
      }
    }
  }

  async #replace(reason: BackendError): Promise<void> {
    this.#failures += 1
    if (this.#failures > MAX_FAILURES) {
      const message = `the packet path failed ${MAX_FAILURES} times in a row`
      throw new BackendError('ERR_PATH', message, { cause: reason })
    }
    this.#log.error(
      { reason: reason.message },
      'the packet path failed; starting another',
    )
    const { client, pid } = this.#path()
    client.close()
    await endPath(pid, this.#context.clock)
    this.#dropDeadDevice()
    try {
      await this.start()
    } catch (error) {
      if (!(error instanceof BackendError)) throw error
      // The old one may hold its device and port for a moment longer: tried again.
      this.#log.warn({ reason: error.message }, 'the packet path does not start yet')
      await this.#context.clock.sleep(RESTART_DELAY_MS * this.#failures)
    }
  }

  /** Somebody has deleted the device: `start` opens another, of the same name if it can. */
  #dropDeadDevice(): void {
    if (this.#descriptors === undefined || isAttached(this.#descriptors.tun.fd)) return
    const { name } = this.#descriptors.tun
    this.#log.error({ device: name }, 'the device is gone; making it again')
    closeDescriptors(this.#descriptors)
    this.#descriptors = undefined
    // Whichever queue comes first makes it, the others join.
    if (this.#context.queues > 1) this.#options = { ...this.#options, device: name }
  }

  get pid(): number {
    return this.#path().pid
  }

  async statistics(): Promise<PathStatistics> {
    return await this.#path().client.statistics()
  }

  /** `keep` leaves the path to forward until its permit ends or the next daemon takes it over. */
  async close(how: 'keep' | 'end'): Promise<void> {
    const running = this.#running
    this.#running = undefined
    if (running !== undefined) {
      if (how === 'end') await this.#end(running)
      else running.client.close()
    }
    if (this.#descriptors !== undefined) {
      closeDescriptors(this.#descriptors)
      this.#descriptors = undefined
    }
    if (how === 'end')
      rmSync(socketPath(this.#context, this.#options.queue), { force: true })
  }
}

function spawnPath(
  purpose: Purpose,
  [{ tun, socket, sender }, listener]: readonly [Descriptors, number],
  log: Logger,
): ChildProcess {
  const child = spawn(
    process.execPath,
    [`--max-old-space-size=${HEAP_MB}`, PROGRAM, JSON.stringify(purpose)],
    {
      env: {},
      cwd: '/',
      // A session of its own: Ctrl-C in a terminal is for the daemon to deal with.
      detached: true,
      stdio: ['ignore', 'ignore', 'pipe', tun.fd, socket, listener, sender],
    },
  )
  // It outlives us when we are restarted; nothing of it keeps us from ending.
  child.unref()
  const { stderr } = child
  if (stderr !== null) {
    createInterface({ input: stderr }).on('line', text => {
      log.error({ text }, 'packet path')
    })
    ;(stderr as unknown as { unref(): void }).unref()
  }
  child.on('error', error => {
    log.error({ reason: error.message }, 'cannot start the packet path')
  })
  child.on('exit', (exitCode, signalName) => {
    log.debug({ pid: child.pid, exitCode, signal: signalName }, 'packet path ended')
  })
  return child
}
