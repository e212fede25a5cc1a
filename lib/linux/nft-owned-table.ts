import { type ChildProcess, spawn } from 'node:child_process'
import { type NftTable, listTables } from './nft.js'
import { CLEAN_ENVIRONMENT } from './run.js'

const DEADLINE_MS = 5000
const POLL_MS = 20

/** More of nft(8)'s complaints say nothing more. */
const MAX_COMPLAINT = 500

/**
 * A table that the kernel takes away with the process that made it, however that
 * ends (`flags owner` of nft(8), Linux 5.12). Nobody else may change it.
 */
export class OwnedTable {
  readonly #child: ChildProcess
  #complaint = ''

  private constructor(child: ChildProcess) {
    this.#child = child
  }

  /**
   * @param lines of nft(8), of which each is a transaction.
   * Throws NotThereError without nft(8), and Error with what it complains of.
   */
  static async open(table: NftTable, lines: readonly string[]): Promise<OwnedTable> {
    const command = ['--pdeathsig', 'KILL', '--', 'nft', '-i']
    const child = spawn('setpriv', command, {
      env: CLEAN_ENVIRONMENT,
      stdio: ['pipe', 'ignore', 'pipe'],
    })
    const owned = new OwnedTable(child)
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      owned.#complaint = `${owned.#complaint}${text}`.slice(0, MAX_COMPLAINT)
    })
    // It may end before it has read everything.
    child.stdin.on('error', () => undefined)
    child.on('error', error => {
      owned.#complaint = error.message
    })
    const { family, name } = table
    child.stdin.write(`add table ${family} ${name} { flags owner; }\n`)
    for (const line of lines) child.stdin.write(`${line}\n`)
    // Made last, it tells that all of it is there.
    const done = { family, name: `${name}-done` }
    child.stdin.write(`add table ${family} ${done.name} { flags owner; }\n`)
    try {
      await owned.#until(done)
    } catch (error) {
      await owned.close()
      throw error
    }
    return owned
  }

  async #until(table: NftTable): Promise<void> {
    for (let waited = 0; waited < DEADLINE_MS; waited += POLL_MS) {
      const tables = await listTables()
      this.check()
      if (tables.some(({ name }) => name === table.name)) return
      await new Promise(resolve => setTimeout(resolve, POLL_MS))
    }
    throw new Error('nft(8) does not make the table')
  }

  /** Throws Error when the table is not as it was asked for, or gone. */
  check(): void {
    const { exitCode, signalCode } = this.#child
    if (this.#complaint !== '') throw new Error(`nft: ${this.#complaint.trim()}`)
    if (exitCode !== null || signalCode !== null) throw new Error('nft has ended')
  }

  async close(): Promise<void> {
    const child = this.#child
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined)
      return
    await new Promise<void>(resolve => {
      child.once('close', () => {
        resolve()
      })
      child.kill('SIGKILL')
    })
  }
}
