/**
 * The registry: keys with revisions, leases that take their keys with them, and
 * a watch over what changes. This is etcd's model, cut down to what leases need;
 * a memory implementation of the same contract serves the tests.
 *
 * Every method may throw ERR_REGISTRY_UNAVAILABLE (ask again later; a `commit`
 * or `grantLease` may nevertheless have happened) or ERR_REGISTRY_REFUSED
 * (credentials or permissions: an operator must act).
 */
export interface Registry {
  /**
   * Every entry whose key starts with `prefix`, as of one revision: that of the beginning,
   * which may be a while ago when all has come.
   */
  list(prefix: string): Promise<Snapshot>

  get(key: string): Promise<{ entry: Entry | undefined; revision: bigint }>

  /** Makes all writes in one step if every guard holds, else none of them. */
  commit(guards: readonly Guard[], writes: readonly Write[]): Promise<Outcome>

  /** @returns the id of a new lease, opaque. */
  grantLease(ttlSeconds: number): Promise<string>

  /** Extends a lease by its whole TTL. Makes no event. Returns the seconds granted, 0 if it is gone. */
  keepLeaseAlive(id: string): Promise<number>

  /** Seconds that a lease has left, 0 if it is gone. */
  leaseTimeToLive(id: string): Promise<number>

  /** Ends a lease and deletes its keys. A lease that is gone already is fine. */
  revokeLease(id: string): Promise<void>

  /**
   * Yields every change under `prefix` from revision `from` on, in order. The
   * first batch is empty and says that the watch stands. Returns when `signal`
   * aborts. To go on after an error, watch again from the last change seen + 1.
   *
   * Also throws ERR_REVISION_COMPACTED and ERR_REVISION_REGRESSED: list again.
   */
  watch(
    prefix: string,
    from: bigint,
    signal: AbortSignal,
  ): AsyncIterable<readonly Change[]>

  close(): void
}

export interface Entry {
  readonly key: string
  readonly value: string
  readonly createRevision: bigint
  readonly modRevision: bigint
  /** The lease that takes the entry with it when it ends. */
  readonly leaseId?: string
}

export interface Snapshot {
  readonly revision: bigint
  readonly entries: readonly Entry[]
}

/** A condition on one key; revision 0 means that the key does not exist. */
export interface Guard {
  readonly key: string
  readonly modRevision: bigint
}

export type Write =
  | {
      readonly kind: 'put'
      readonly key: string
      readonly value: string
      readonly leaseId?: string
    }
  | { readonly kind: 'delete'; readonly key: string }

export interface Outcome {
  readonly succeeded: boolean
  readonly revision: bigint
}

export type Change =
  | { readonly kind: 'put'; readonly entry: Entry }
  | { readonly kind: 'delete'; readonly key: string; readonly modRevision: bigint }

export function revisionOf(change: Change): bigint {
  return change.kind === 'put' ? change.entry.modRevision : change.modRevision
}
