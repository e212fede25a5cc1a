import { ENDING_SIGNALS, exitCodeOf, start } from './command.mjs'

/**
 * npm passes the terminal's Ctrl-C on to us, which the terminal sends us too:
 * what follows so soon (ms) is the same keystroke.
 */
const SAME_KEYSTROKE_MS = 300

/**
 * Runs a program for the person at the terminal and resolves with its exit
 * code. One Ctrl-C reaches it as one SIGINT, since it runs in a session of its
 * own and we pass the signals on. If we are killed, it gets a SIGINT as well.
 */
export async function runInForeground(program, args, options) {
  let passedAt = -Infinity
  const pass = name => {
    const now = performance.now()
    if (now - passedAt < SAME_KEYSTROKE_MS) return
    passedAt = now
    // A closed terminal is a person who leaves, as Ctrl-C is.
    child.kill(name === 'SIGTERM' ? 'SIGTERM' : 'SIGINT')
  }
  // First, for a signal may come with the program's first words.
  for (const name of ENDING_SIGNALS) process.on(name, pass)
  const child = start('setpriv', ['--pdeathsig', 'INT', '--', program, ...args], {
    stdio: 'inherit',
    detached: true,
    ...options,
  })
  try {
    return await exitCodeOf(child)
  } finally {
    for (const name of ENDING_SIGNALS) process.off(name, pass)
  }
}
