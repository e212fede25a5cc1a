import { pino } from 'pino'
import { bootTimeMs } from '../../lib/linux/libc.js'
import { systemClock } from '../../lib/subnet/clock.js'
import type { LeaseCache } from '../../lib/subnet/lease-cache.js'
import { LeaseCacheFile } from '../flanneld/lease-cache-file.js'
import { placesOf } from '../flanneld/places.js'
import type { StatusFlags } from './daemon-status.js'

/** What the daemon of this host has written down of its lease; undefined when it has nothing. */
export async function readLeaseCache(
  flags: StatusFlags,
): Promise<LeaseCache | undefined> {
  const clock = systemClock(bootTimeMs)
  const silent = pino({ level: 'silent' })
  return await new LeaseCacheFile(placesOf(flags).leaseCacheFile, clock, silent).read()
}
