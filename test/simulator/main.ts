/* eslint-disable no-console -- a program for the terminal */
import { startHerd } from './herd.js'
import { simulate } from './simulate.js'

/** What a request takes of etcd beside its bytes: an etcd that answers 10,000 a second. */
const REQUEST_MS = 0.1
const ROUND_TRIP_MS = 1

const USAGE = `usage: npm run simulate -- [--seeds N] [--from SEED] [--hosts N] [--minutes N]
                           [--story] [--first]
       npm run simulate -- --herd HOSTS [--mbit N] [--spread SECONDS]
                           [--new] [--whole]

--minutes  of trouble, in virtual time
--story    tell what happened
--first    end at the first violation

--herd     so many hosts start at once
--mbit     Mbit/s of etcd's link; 1000 unless told
--spread   not at once, but within so many seconds
--new      none of them was there before
--whole    lists in one answer instead of pages`

const WORDS = ['story', 'first', 'new', 'whole']
const NUMBERS = ['seeds', 'from', 'hosts', 'minutes', 'herd', 'mbit', 'spread']

function readOptions(args: readonly string[]): Map<string, number> {
  const options = new Map<string, number>()
  for (let index = 0; index < args.length; index++) {
    const name = args[index]?.replace(/^--/, '') ?? ''
    if (WORDS.includes(name)) options.set(name, 1)
    else if (NUMBERS.includes(name)) options.set(name, Number(args[++index]))
    else throw new Error(USAGE)
  }
  if ([...options.values()].some(value => !Number.isInteger(value) || value < 1))
    throw new Error(USAGE)
  return options
}

const options = readOptions(process.argv.slice(2))
const herd = options.get('herd')
process.exitCode = herd === undefined ? await runSeeds() : await runHerd(herd)

async function runHerd(hosts: number): Promise<number> {
  const result = await startHerd({
    hosts,
    bytesPerSecond: (options.get('mbit') ?? 1000) * 125_000,
    requestMs: REQUEST_MS,
    roundTripMs: ROUND_TRIP_MS,
    spreadMs: (options.get('spread') ?? 0) * 1000,
    isPaged: !options.has('whole'),
    isFirstTime: options.has('new'),
  })
  const { readyAfter, requests, mostRequests, sentBytes, timeouts } = result
  const last = readyAfter.at(-1)?.toFixed(1) ?? '-'
  console.log(`${readyAfter.length} of ${hosts} hosts are ready, the last after ${last} s
${requests} requests, ${mostRequests} in one second; ${timeouts} were not answered in time
${(sentBytes / 1e6).toFixed(0)} MB sent by etcd`)
  return readyAfter.length === hosts ? 0 : 1
}

async function runSeeds(): Promise<number> {
  const from = options.get('from') ?? 1
  const count = options.get('seeds') ?? 300
  const hosts = options.get('hosts')
  const minutes = options.get('minutes')
  const begin = performance.now()
  let bad = 0
  let seconds = 0
  for (let seed = from; seed < from + count; seed++) {
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
  return bad === 0 ? 0 : 1
}
