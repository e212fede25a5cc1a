import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { inside } from '../../cmd/flannelctl/lab/namespaces.js'

const PROGRAM = fileURLToPath(new URL('./injector-main.js', import.meta.url))

export interface InjectionOptions {
  /** DSCP and ECN of the outer header. */
  readonly trafficClass?: number
  /** One message of datagrams of equal length (UDP_SEGMENT), which arrives as one (UDP_GRO). */
  readonly asRun?: boolean
}

/** What injector-main is told, as JSON. */
export interface InjectionOrder extends Required<InjectionOptions> {
  /** Hexadecimal. */
  readonly packets: readonly string[]
}

/** Sends datagrams from inside a namespace, as a host or an attacker there would. */
export class Injector {
  readonly #child: ChildProcess

  /** @param from an address there. It ends with the test. */
  constructor(t: Test, namespace: string, from: string, to: string, port: number) {
    const program = [process.execPath, PROGRAM, from, to, String(port)]
    const command = ['--pdeathsig', 'KILL', '--', ...inside(namespace, program)]
    const env = { PATH: process.env['PATH'] }
    this.#child = spawn('setpriv', command, { env, stdio: ['pipe', 'pipe', 'inherit'] })
    t.teardown(() => this.#child.kill('SIGKILL'))
  }

  /** Resolves when they have been sent. */
  async send(packets: readonly Buffer[], options: InjectionOptions = {}): Promise<void> {
    const { trafficClass = 0, asRun = false } = options
    const order: InjectionOrder = {
      packets: packets.map(packet => packet.toString('hex')),
      trafficClass,
      asRun,
    }
    const { stdin, stdout } = this.#child
    if (stdin === null || stdout === null) throw new Error('no injector')
    const answer = once(stdout, 'data')
    stdin.write(`${JSON.stringify(order)}\n`)
    await answer
  }
}
