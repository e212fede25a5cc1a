import type { Logger } from 'pino'
import { Backoff, type Clock } from './clock.js'
import { SubnetError } from './errors.js'
import type { LeaseKeeper } from './keep-lease.js'
import type { LeaseView } from './lease-view.js'
import type { Registry } from './registry.js'
import { formatSubnet } from './subnet-key.js'
import type { OwnHolder, SubnetRecord } from './subnet-record.js'
import { deleteSubnet } from './subnet-writes.js'

/** Between two attempts after a failure, in ms. */
const FIRST_RETRY_MS = 1000
const LAST_RETRY_MS = 30_000

/** A wait that a change of the view ends. */
const DAY_MS = 86_400_000

export interface TakeBackLeases {
  readonly registry: Registry
  /** Clean etcd prefix. */
  readonly prefix: string
  readonly holder: OwnHolder
  readonly view: LeaseView
  readonly keeper: LeaseKeeper
  readonly clock: Clock
  readonly log: Logger
}

/**
 * Deletes leases of ours on other subnets than the one held, until `signal`
 * aborts: a registry that was restored has them, and they keep their holders of
 * today from their subnets.
 */
export async function takeBackLeases(
  options: TakeBackLeases,
  signal: AbortSignal,
): Promise<void> {
  const { holder, view, keeper, clock } = options
  const backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
  while (!signal.aborted) {
    const news = new AbortController()
    const forget = view.subscribe(() => {
      news.abort()
    })
    try {
      const old = view.listed ? view.forgottenLeases(holder, keeper.held.key) : []
      for (const record of old) await takeBack(record, options)
      await clock.sleep(DAY_MS, AbortSignal.any([signal, news.signal]))
    } catch (error) {
      if (!(error instanceof SubnetError)) throw error
      await backoff.wait(signal)
    } finally {
      forget()
    }
  }
}

async function takeBack(
  { key, subnet, modRevision }: SubnetRecord,
  { registry, prefix, log }: TakeBackLeases,
): Promise<void> {
  log.warn(
    { subnet: formatSubnet(subnet) },
    'etcd has an old lease of ours on another subnet; deleting it',
  )
  await registry.commit([{ key, modRevision }], deleteSubnet(prefix, subnet))
}
