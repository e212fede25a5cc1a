import type { Entry, Snapshot } from './registry.js'

/** So many entries are asked for at first: some 20 KB, which a slow link and a busy etcd send in time. */
const FIRST_PAGE = 100

/** All that a network may have, in the end. */
const LARGEST_PAGE = 16_000

/** An answer that comes sooner has room for more; one that comes later had too much. */
const QUICK_MS = 250
const SLOW_MS = 2000

/** Which part of a prefix to read. */
export interface PageRequest {
  /** The first key, or the one behind this if `isBehind`. */
  readonly from: string
  readonly isBehind: boolean
  readonly limit: number
  /** As of which revision; undefined for the newest. */
  readonly revision: bigint | undefined
}

export interface Page extends Snapshot {
  /** Whether there are more behind the last entry. */
  readonly more: boolean
}

/**
 * Lists a prefix as of one revision in several answers, so that none of them is
 * too long for the time that an answer has. When thousands of hosts start at once
 * each gets its share of etcd's link; a list in one answer would come too late for
 * all of them, and be asked for again. Pages double while they come quickly.
 *
 * @param readPage rejects when the revision is compacted meanwhile: list again.
 * @param now milliseconds of a clock that never jumps.
 */
export async function listInPages(
  prefix: string,
  readPage: (request: PageRequest) => Promise<Page>,
  now: () => number,
): Promise<Snapshot> {
  const entries: Entry[] = []
  let request: PageRequest = {
    from: prefix,
    isBehind: false,
    limit: FIRST_PAGE,
    revision: undefined,
  }
  for (;;) {
    const begin = now()
    const page = await readPage(request)
    const ms = now() - begin
    for (const entry of page.entries) entries.push(entry)
    const revision = request.revision ?? page.revision
    const last = page.entries.at(-1)
    if (!page.more || last === undefined) return { revision, entries }
    request = {
      from: last.key,
      isBehind: true,
      limit: nextLimit(request.limit, ms),
      revision,
    }
  }
}

function nextLimit(limit: number, ms: number): number {
  if (ms < QUICK_MS) return Math.min(LARGEST_PAGE, limit * 2)
  return ms > SLOW_MS ? Math.max(1, limit >> 1) : limit
}
