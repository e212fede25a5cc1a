import t from 'tap'
import { LeaseTable } from '../../../lib/subnet/lease-table.js'
import type { Change, Entry, Snapshot } from '../../../lib/subnet/registry.js'
import { revisionOf } from '../../../lib/subnet/registry.js'
import { ManualClock } from '../../fakes/manual-clock.js'
import { MemoryEtcd } from '../../fakes/memory-etcd.js'
import { fc, holds } from '../../helpers/property.js'

const PREFIX = '/net/subnets/'
const GOOD = ['1.1.1.1', '1.1.1.2', '1.1.1.3'].map(ip => `{"PublicIP":"${ip}"}`)
const BAD = ['', '{', '{"PublicIP":"127.0.0.1"}', 'null']

interface Step {
  readonly key: string
  /** Undefined deletes. */
  readonly value: string | undefined
  /** What the table hears after the step: nothing yet, the changes since, or a snapshot. */
  readonly hear: 'nothing' | 'changes' | 'snapshot'
}

function stepsWith(values: readonly string[], keys: readonly string[]) {
  return fc.array(
    fc.record<Step>({
      key: fc.constantFrom(...keys).map(name => PREFIX + name),
      value: fc.constantFrom(undefined, ...values),
      hear: fc.constantFrom('nothing', 'changes', 'changes', 'snapshot'),
    }),
    { maxLength: 40 },
  )
}

const NAMES = ['10.5.1.0-24', '10.5.2.0-24', '10.5.3.0-24', '10.5.4.0-24']

/** Plays steps on a registry and lets a table follow; returns both at the end. */
function play(steps: readonly Step[]): { table: LeaseTable; snapshot: Snapshot } {
  const etcd = new MemoryEtcd(new ManualClock())
  const table = new LeaseTable()
  let next = 1n
  const hear = (how: Step['hear']): void => {
    if (how === 'nothing') return
    if (how === 'snapshot') table.replace(etcd.read(PREFIX))
    else {
      table.apply(etcd.changes(PREFIX, next).changes, 0)
      table.settle(0)
    }
    next = etcd.revision + 1n
  }
  for (const { key, value, hear: how } of steps) {
    etcd.commit(
      [],
      [value === undefined ? { kind: 'delete', key } : { kind: 'put', key, value }],
    )
    hear(how)
  }
  hear('changes')
  return { table, snapshot: etcd.read(PREFIX) }
}

/** What a table says, as text that can be compared. */
function contents(table: LeaseTable): string[] {
  return table
    .records()
    .map(({ key, modRevision, holder }) =>
      [key, modRevision, holder.publicIp?.value].join(' '),
    )
    .sort()
}

function tableOf(snapshot: Snapshot): LeaseTable {
  const table = new LeaseTable()
  table.replace(snapshot)
  return table
}

t.test('after any changes it equals the table of the last snapshot', async t => {
  await holds(
    t,
    fc.property(stepsWith(GOOD, NAMES), steps => {
      const { table, snapshot } = play(steps)
      const expected = contents(tableOf(snapshot))
      return (
        contents(table).join() === expected.join() &&
        expected.length === snapshot.entries.length
      )
    }),
    { numRuns: 1000 },
  )
})

t.test('a malformed entry is reported and changes nothing else', async t => {
  const names = [...NAMES, 'rubbish', '10.5.9.0-99']
  await holds(
    t,
    fc.property(stepsWith([...GOOD, ...BAD], names), steps => {
      const { table, snapshot } = play(steps)
      const plain = tableOf(snapshot)
      const badKeys = (from: LeaseTable) =>
        from
          .bad()
          .map(({ key }) => key)
          .sort()
          .join()
      const bad = new Set(plain.bad().map(({ key }) => key))
      const goodOnly = contents(table).filter(text => !bad.has(text.split(' ')[0]!))
      return (
        badKeys(table) === badKeys(plain) &&
        goodOnly.join() === contents(plain).join() &&
        plain.records().length + bad.size === snapshot.entries.length
      )
    }),
    { numRuns: 1000 },
  )
})

const entry = (
  value: string,
  modRevision: bigint,
  createRevision = modRevision,
): Entry => ({ key: `${PREFIX}10.5.1.0-24`, value, modRevision, createRevision })
const put = (given: Entry): Change => ({ kind: 'put', entry: given })

t.test('a record that becomes unreadable stays as it was, however that is heard', t => {
  const readable = entry(GOOD[0]!, 5n)
  const unreadable = entry('{', 6n, 5n)
  const byChange = new LeaseTable()
  byChange.apply([put(readable), put(unreadable)], 0)
  const bySnapshot = new LeaseTable()
  bySnapshot.replace({ revision: 5n, entries: [readable] })
  bySnapshot.replace({ revision: 6n, entries: [unreadable] })

  for (const table of [byChange, bySnapshot]) {
    t.equal(table.get(readable.key)?.modRevision, 5n)
    t.match(table.bad(), [{ key: readable.key, why: /^value of \/net\/subnets\// }])
  }

  bySnapshot.apply([put(entry(GOOD[1]!, 7n, 5n))], 0)
  t.strictSame(bySnapshot.bad(), [])
  t.equal(bySnapshot.get(readable.key)?.modRevision, 7n)
  t.end()
})

t.test('an unreadable record of a key that was gone meanwhile is no record', t => {
  const table = new LeaseTable()
  table.replace({ revision: 5n, entries: [entry(GOOD[0]!, 5n)] })

  table.replace({ revision: 8n, entries: [entry('{', 8n)] })

  t.strictSame(table.records(), [])
  t.equal(table.bad().length, 1)
  table.apply([{ kind: 'delete', key: `${PREFIX}10.5.1.0-24`, modRevision: 9n }], 0)
  t.strictSame(table.bad(), [])
  t.end()
})

t.test('a change knows its revision', t => {
  t.equal(revisionOf(put(entry('', 5n))), 5n)
  t.equal(revisionOf({ kind: 'delete', key: 'x', modRevision: 6n }), 6n)
  t.end()
})

t.test('what a forgetful registry lacks is kept for its time', t => {
  const other: Entry = { ...entry(GOOD[1]!, 6n), key: `${PREFIX}10.5.2.0-24` }
  const table = new LeaseTable()
  table.replace({ revision: 6n, entries: [entry(GOOD[0]!, 5n), other] })

  table.merge(
    { revision: 2n, entries: [{ ...other, createRevision: 2n }] },
    { keep: 1000, doubt: 1000 },
  )

  t.equal(table.records().length, 2)
  t.equal(table.isOrphan(entry('', 0n).key), true)
  t.equal(table.isOrphan(other.key), false)
  t.equal(table.settlesAt, 1000)
  t.equal(table.settle(999), false)
  t.equal(table.settle(1000), true)
  t.strictSame(
    table.records().map(({ key }) => key),
    [other.key],
  )
  t.equal(table.settlesAt, Infinity)
  t.end()
})

t.test('a forgotten record that turns up again is none, and keeps no second time', t => {
  const orphan = entry(GOOD[0]!, 5n)
  const table = new LeaseTable()
  table.replace({ revision: 5n, entries: [orphan] })
  table.merge({ revision: 1n, entries: [] }, { keep: 1000, doubt: 1000 })
  table.merge({ revision: 1n, entries: [] }, { keep: 9000, doubt: 9000 })
  t.equal(table.settlesAt, 1000)

  table.apply([put(entry(GOOD[0]!, 2n))], 0)

  t.equal(table.isOrphan(orphan.key), false)
  t.equal(table.get(orphan.key)?.modRevision, 2n)
  t.end()
})

t.test('a forgotten host gives way to whoever takes a part of its subnet', t => {
  const table = new LeaseTable()
  table.replace({ revision: 5n, entries: [entry(GOOD[0]!, 5n)] })
  table.merge({ revision: 1n, entries: [] }, { keep: 1000, doubt: 1000 })

  const key = `${PREFIX}10.5.1.128-25`
  table.apply([put({ ...entry(GOOD[1]!, 2n), key })], 0)

  t.strictSame(
    table.records().map(record => record.key),
    [key],
  )
  t.end()
})
