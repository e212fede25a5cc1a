/* eslint-disable no-console -- a program that prints */
/**
 * etcd-writer-main.js ENDPOINT: writes pairs of a key and a value, a line of JSON each from
 * standard input, into etcd by its JSON gateway, a hundred in a step, and says how many.
 */
import { createInterface } from 'node:readline'

const [, , endpoint = ''] = process.argv
const AT_ONCE = 100

const base64 = (text: string): string => Buffer.from(text).toString('base64')

async function write(pairs: readonly (readonly [string, string])[]): Promise<void> {
  const success = pairs.map(([key, value]) => ({
    requestPut: { key: base64(key), value: base64(value) },
  }))
  const response = await fetch(`${endpoint}/v3/kv/txn`, {
    method: 'POST',
    body: JSON.stringify({ success }),
  })
  if (!response.ok) throw new Error(`etcd: ${response.status} ${await response.text()}`)
}

let count = 0
let pairs: [string, string][] = []
for await (const line of createInterface({ input: process.stdin })) {
  pairs.push(JSON.parse(line) as [string, string])
  if (pairs.length < AT_ONCE) continue
  await write(pairs)
  count += pairs.length
  pairs = []
}
if (pairs.length > 0) await write(pairs)
console.log(count + pairs.length)
