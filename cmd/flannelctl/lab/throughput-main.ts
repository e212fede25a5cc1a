/**
 * A TCP transfer between two network namespaces, for machines without iperf3.
 *
 * Arguments: `server`, which takes one connection and counts; or an address and
 * a number of seconds, for the sender, which prints the result as JSON.
 */
import { connect, createServer } from 'node:net'

/** iperf3's, so that the same holes in firewalls do. */
const PORT = 5201
const CHUNK = Buffer.alloc(131_072)

function serve(): void {
  const server = createServer({ allowHalfOpen: true }, socket => {
    const start = performance.now()
    let bytes = 0
    socket.on('data', chunk => (bytes += chunk.length))
    socket.on('error', () => process.exit(1))
    socket.on('end', () => {
      const seconds = (performance.now() - start) / 1000
      socket.end(JSON.stringify({ bitsPerSecond: (bytes * 8) / seconds }))
      server.close()
    })
  })
  server.listen(PORT, () => {
    console.log('listening')
  })
}

function send(address: string, seconds: number): void {
  const socket = connect(PORT, address)
  const end = performance.now() + seconds * 1000
  const write = (): void => {
    while (performance.now() < end) if (!socket.write(CHUNK)) return
    socket.end()
  }
  socket.on('connect', write).on('drain', write)
  socket.pipe(process.stdout)
}

const [role = '', seconds = '1'] = process.argv.slice(2)
if (role === 'server') serve()
else send(role, Number(seconds))
