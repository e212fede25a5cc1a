/* eslint-disable no-console -- a program that prints */
/**
 * etcd-proxy-main.js LISTEN TARGET (address:port each): stands between the hosts and etcd. A
 * line on standard input sets how: {"delayMs":0,"isFrozen":false}. Frozen, connections stay
 * open, and nothing comes or goes.
 */
import { type Socket, connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

const THAW_POLL_MS = 20

const [, , listen = '', target = ''] = process.argv
const [address = '', port = ''] = listen.split(':')
const [targetAddress = '', targetPort = ''] = target.split(':')

let trouble = { delayMs: 0, isFrozen: false }

/** Hands on what comes, in its order, as late as is ordered. */
function carry(from: Socket, to: Socket): void {
  let last = Promise.resolve()
  from.on('data', (chunk: Buffer) => {
    const due = sleep(trouble.delayMs)
    last = last.then(async () => {
      await due
      while (trouble.isFrozen) await sleep(THAW_POLL_MS)
      to.write(chunk)
    })
  })
  from.on('error', () => to.destroy())
  from.on('close', () => to.destroy())
}

createServer(client => {
  const server = connect(Number(targetPort), targetAddress)
  carry(client, server)
  carry(server, client)
}).listen(Number(port), address, () => {
  console.log('ready')
})

createInterface({ input: process.stdin }).on('line', line => {
  trouble = JSON.parse(line) as typeof trouble
  console.log('done')
})
