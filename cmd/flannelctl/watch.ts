import { pino } from 'pino'
import { ROUTE_PROTOCOL } from '../../lib/backend/route-protocol.js'
import { bootTimeMs } from '../../lib/linux/libc.js'
import { monitorIp } from '../../lib/linux/ip-monitor.js'
import { systemClock } from '../../lib/subnet/clock.js'
import { followPrefix } from '../../lib/subnet/follow-prefix.js'
import { runAll } from '../../lib/subnet/loops.js'
import type { Change, Registry, Snapshot } from '../../lib/subnet/registry.js'
import { subnetsPrefix } from '../../lib/subnet/subnet-key.js'
import { COMMON_FLAGS, EXIT, defineCommand, refuseWords } from './command.js'
import { withRegistry } from './etcd.js'
import { interruption } from './interruption.js'
import {
  type LeaseEvent,
  type LeaseState,
  leaseEvents,
  leaseState,
} from './lease-events.js'

export const watchCommand = defineCommand({
  help: `
flannelctl watch [flags]

Tells what changes, as it happens, until Ctrl-C: subnets that are taken, move to another
address or are given up, and routes of ours on this host.

  flannelctl watch
  flannelctl watch --json | jq -r 'select(.what == "left") | .subnet'`,
  flags: COMMON_FLAGS,
  run: async (flags, words) => {
    refuseWords('watch', words)
    const stop = interruption()
    const print = flags.json ? printLine : printText
    await withRegistry(flags, (registry, prefix) =>
      runAll(stop, [
        each => followLeases(registry, prefix, print, each),
        each => followRoutes(print, each),
      ]),
    )
    return EXIT.ok
  },
})

/** Something that has changed. */
type News =
  | LeaseEvent
  | { readonly what: 'route' | 'route gone'; readonly route: string }
  | { readonly what: 'etcd'; readonly trouble: string | null }
  | { readonly what: 'records'; readonly count: number }

type Print = (news: News) => void

async function followLeases(
  registry: Registry,
  prefix: string,
  print: Print,
  signal: AbortSignal,
): Promise<void> {
  let known: ReadonlyMap<string, LeaseState> | undefined
  let isAway = false
  const take = (states: ReadonlyMap<string, LeaseState>): void => {
    if (known === undefined) print({ what: 'records', count: states.size })
    else for (const event of leaseEvents(known, states)) print(event)
    known = states
  }
  const options = {
    registry,
    prefix: subnetsPrefix(prefix),
    clock: systemClock(bootTimeMs),
    log: pino({ level: 'silent' }),
    onSnapshot: ({ entries }: Snapshot) => {
      take(new Map(entries.map(entry => [entry.key, leaseState(entry)])))
    },
    onChanges: (changes: readonly Change[]) => {
      const states = new Map(known)
      for (const change of changes)
        if (change.kind === 'put') states.set(change.entry.key, leaseState(change.entry))
        else states.delete(change.key)
      take(states)
    },
    onReachable: (reachable: boolean, why: string) => {
      if (reachable === !isAway) return
      isAway = !reachable
      print({ what: 'etcd', trouble: reachable ? null : why })
    },
  }
  await followPrefix(options, signal)
}

/** Routes of ours, by their protocol number. */
async function followRoutes(print: Print, signal: AbortSignal): Promise<void> {
  let rest = ''
  const onEvent = (text: string): void => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      if (!line.includes(` proto ${ROUTE_PROTOCOL} `)) continue
      const route = line.replace(/^Deleted /, '').replace(` proto ${ROUTE_PROTOCOL}`, '')
      const what = line.startsWith('Deleted ') ? 'route gone' : 'route'
      print({ what, route: route.trim() })
    }
  }
  await monitorIp(['route'], onEvent, signal)
}

function printLine(news: News): void {
  process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), ...news })}\n`)
}

function printText(news: News): void {
  const time = new Date().toTimeString().slice(0, 8)
  process.stdout.write(`${time}  ${describe(news)}\n`)
}

function describe(news: News): string {
  switch (news.what) {
    case 'records':
      return `${news.count} subnets are held; telling what changes (Ctrl-C ends)`
    case 'etcd':
      return news.trouble === null
        ? 'etcd answers again'
        : `etcd does not answer: ${news.trouble}`
    case 'route':
    case 'route gone':
      return `${news.what}  ${news.route}`
    case 'unreadable':
      return `unreadable  ${news.key}: ${news.why}`
    case 'joined':
    case 'changed':
    case 'left':
      return [news.what.padEnd(8), news.subnet, news.holder].join(' ')
  }
}
