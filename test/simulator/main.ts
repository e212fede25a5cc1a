/* eslint-disable no-console -- a program for the terminal */
import { simulate } from './simulate.js'

const USAGE = `usage: npm run simulate -- [--seeds N] [--from SEED] [--hosts N] [--minutes N]
  [--story] [--first]

--minutes  of trouble, in virtual time
--story    tell what happened
--first    end at the first violation`

function readOptions(args: readonly string[]): Map<string, number> {
  const options = new Map<string, number>()
  for (let index = 0; index < args.length; index++) {
    const name = args[index]?.replace(/^--/, '') ?? ''
    if (name === 'story' || name === 'first') options.set(name, 1)
    else if (['seeds', 'from', 'hosts', 'minutes'].includes(name))
      options.set(name, Number(args[++index]))
    else throw new Error(USAGE)
  }
  if ([...options.values()].some(value => !Number.isInteger(value) || value < 1))
    throw new Error(USAGE)
  return options
}

const options = readOptions(process.argv.slice(2))
const first = options.get('from') ?? 1
const count = options.get('seeds') ?? 300
const hosts = options.get('hosts')
const minutes = options.get('minutes')
const begin = performance.now()
let bad = 0
let seconds = 0
for (let seed = first; seed < first + count; seed++) {
  if (bad > 0 && options.has('first')) break
  const result = await simulate(seed, {
    ...(hosts !== undefined && { hosts }),
    ...(minutes !== undefined && { troubleMs: minutes * 60_000 }),
  })
  seconds += result.seconds
  if (result.violations.length === 0 && !options.has('story')) continue
  if (result.violations.length > 0) bad += 1
  if (options.has('story')) console.log(result.story.join('\n'))
  for (const text of result.violations) console.log(`seed ${seed}: ${text}`)
}
const took = ((performance.now() - begin) / 1000).toFixed(1)
console.log(
  `${count} seeds, ${bad} with violations, ${(seconds / 3600).toFixed(1)} virtual hours in ${took} s`,
)
process.exitCode = bad === 0 ? 0 : 1
