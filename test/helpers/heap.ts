import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** Bytes that appear on the heap in `rounds` calls, seen slice by slice so that a collection in between hides nothing. */
export function allocatedBy(call: () => void, rounds: number): number {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  collect()
  const slice = 10_000
  let allocated = 0
  for (let done = 0; done < rounds; done += slice) {
    const before = process.memoryUsage().heapUsed
    for (let index = 0; index < slice; index++) call()
    allocated += Math.max(0, process.memoryUsage().heapUsed - before)
  }
  return allocated
}
