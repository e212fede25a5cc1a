/** A mistake that somebody could make in lib/, as a change of the compiled text. */
export interface PlantedBug {
  readonly name: string
  /** Below dist/lib. */
  readonly file: string
  /** There once. */
  readonly find: string
  readonly replace: string
  /** The first seed, for a bug that takes hundreds. */
  readonly from?: number
  /** Within how many seeds the simulator must find it. */
  readonly seeds: number
}

export const PLANTED_BUGS: readonly PlantedBug[] = [
  {
    name: 'a subnet is created without looking whether it is free',
    file: 'subnet/subnet-writes.js',
    find: 'return keys.map(key => ({ key, modRevision: revisions.get(key) ?? 0n }));',
    replace: 'return [];',
    seeds: 20,
  },
  {
    name: 'a lease that another host holds is put over',
    file: 'subnet/keep-lease.js',
    find: 'const isOlder =',
    replace: 'return; const isOlder =',
    seeds: 80,
  },
  {
    name: 'no fence: the loss of the subnet changes nothing',
    file: 'subnet/host-lease.js',
    find: "throw new TenureEnd('lost', error.message);",
    replace: 'return;',
    from: 21,
    seeds: 20,
  },
  {
    name: 'a watch begins one revision late',
    file: 'subnet/follow-prefix.js',
    find: 'snapshot.revision + 1n',
    replace: 'snapshot.revision + 2n',
    seeds: 20,
  },
  {
    name: 'two snapshots are compared by subnet alone',
    file: 'subnet/lease-table.js',
    find: 'if (!this.#doubted.has(entry.key))\n                this.#put(entry);',
    replace: 'if (!this.#records.has(entry.key)) this.#put(entry);',
    seeds: 40,
  },
  {
    name: 'a wiped etcd is taken for hosts that left',
    file: 'subnet/lease-view.js',
    find: 'const continuous = this.#isContinuous(snapshot);',
    replace: 'const continuous = true;',
    seeds: 20,
  },
  {
    name: 'what a restored etcd says is believed at once',
    file: 'subnet/lease-table.js',
    find: 'if (this.#contradicts(entry))',
    replace: 'if (false)',
    from: 201,
    seeds: 20,
  },
  {
    name: 'a reservation gets an etcd lease',
    file: 'subnet/acquire-lease.js',
    find: 'putSubnet(prefix, subnet, record, undefined)',
    replace: 'putSubnet(prefix, subnet, record, await registry.grantLease(ttlSeconds))',
    seeds: 80,
  },
  {
    name: 'the permit is extended without proof',
    file: 'subnet/permit.js',
    find: 'else if (isUnbroken) {',
    replace: 'else {',
    from: 21,
    seeds: 20,
  },
  {
    name: 'a lease is taken to live twice as long as it does',
    file: 'subnet/keep-lease.js',
    find: 'provenAt + ttlSeconds * 1000',
    replace: 'provenAt + ttlSeconds * 2000',
    from: 61,
    seeds: 20,
  },
  {
    name: 'a deleted record is not put back',
    file: 'subnet/keep-lease.js',
    find: 'await (entry === undefined ? this.#restore(proof) : this.#adopt(entry, proof));',
    replace: 'if (entry !== undefined) await this.#adopt(entry, proof);',
    seeds: 20,
  },
  {
    name: 'a host does not find its own record',
    file: 'subnet/acquire-lease.js',
    find: 'const own = findOwnRecord(fitting, options);\n        if (own === undefined &&',
    replace: 'const own = undefined; if (own === undefined &&',
    seeds: 20,
  },
  {
    name: 'forgotten hosts are believed in for ever',
    file: 'subnet/lease-view.js',
    find: 'keep: now + ORPHAN_GRACE_MS',
    replace: 'keep: now + 1e9',
    from: 101,
    seeds: 60,
  },
  {
    name: 'one malformed record is taken for an empty network',
    file: 'subnet/lease-table.js',
    find: '// An unreadable new value leaves the last readable one in force.',
    replace: 'this.#records.clear();',
    seeds: 20,
  },
  {
    name: 'a machine does not ask whether its copy lives',
    file: 'subnet/refuse-clone.js',
    find: 'if (!mayBeClone && !isStrange)\n        return;',
    replace: 'return;',
    seeds: 80,
  },
  {
    name: 'a lease that is gone is taken for one that lives',
    file: 'subnet/keep-lease.js',
    find: 'keepLeaseAlive(leaseId)) > 0',
    replace: 'keepLeaseAlive(leaseId)) >= 0',
    seeds: 40,
  },
]
