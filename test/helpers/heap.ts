import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

const SLICE = 10_000

/**
 * Bytes that appear on the heap in `rounds` calls, seen slice by slice so that a
 * collection in between hides nothing. V8 compiles meanwhile, in a thread that may have
 * to wait for a core: of up to three goes the least counts.
 */
export function allocatedBy(call: () => void, rounds: number): number {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const bytesOf = (): number => {
    collect()
    let bytes = 0
    for (let done = 0; done < rounds; done += SLICE) {
      const before = process.memoryUsage().heapUsed
      for (let index = 0; index < SLICE; index++) call()
      bytes += Math.max(0, process.memoryUsage().heapUsed - before)
    }
    return bytes
  }
  let least = bytesOf()
  for (let go = 1; go < 3 && least > rounds / 4; go++) least = Math.min(least, bytesOf())
  return least
}
