import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'

/** The project's directory. */
export const ROOT = fileURLToPath(new URL('..', import.meta.url))

/** What a person must know or do before the script can go on: one line, no stack. */
export class ScriptError extends Error {
  name = 'ScriptError'
}

/** With the directories of programs for root, which a shell of `su` leaves out. */
export const PATH = `${process.env.PATH}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`

/** What ends a script that a person runs: Ctrl-C, kill, a closed terminal. */
export const ENDING_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP']

/** Starts a program with our path; options as of spawn, `env` is added to ours. */
export function start(program, args, { env, ...options } = {}) {
  return spawn(program, args, { ...options, env: { ...process.env, PATH, ...env } })
}

/** The exit code as a shell counts it: 128 and the number of the signal that ended it. */
export async function exitCodeOf(child) {
  return await new Promise((resolve, reject) => {
    child.once('error', error => {
      reject(new ScriptError(`cannot run ${child.spawnfile}: ${error.message}`))
    })
    child.once('close', (exitCode, signal) => {
      resolve(exitCode ?? 128 + constants.signals[signal])
    })
  })
}

/** Runs a program in the foreground. Throws ScriptError when it fails. */
export async function run(program, args, options) {
  const exitCode = await exitCodeOf(
    start(program, args, { stdio: 'inherit', ...options }),
  )
  if (exitCode === 0) return
  throw new ScriptError(`${[program, ...args].join(' ')} failed (exit code ${exitCode})`)
}

/**
 * Runs `body` with a signal that aborts when this process is told to end, so
 * that what was begun can be undone. Node's own reaction stays away meanwhile.
 */
export async function untilInterrupted(body) {
  const controller = new AbortController()
  const abort = () => {
    controller.abort()
  }
  for (const name of ENDING_SIGNALS) process.on(name, abort)
  try {
    return await body(controller.signal)
  } finally {
    for (const name of ENDING_SIGNALS) process.off(name, abort)
  }
}

/** Runs the body of a script; its result, if any, is the exit code. */
export async function main(body) {
  try {
    process.exitCode = (await body()) ?? 0
  } catch (error) {
    if (!(error instanceof ScriptError)) throw error
    console.error(`error: ${error.message}`)
    process.exitCode = 1
  }
}
