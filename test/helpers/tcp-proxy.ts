import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'

/** Stands between a client and a server, and makes trouble on the way. */
export interface TcpProxy {
  readonly port: number
  /** Breaks every connection; new ones get through. */
  cut(): void
  /** While true, the server's answers are thrown away. */
  swallowAnswers: boolean
  close(): Promise<void>
}

export async function openTcpProxy(targetPort: number): Promise<TcpProxy> {
  const sockets = new Set<Socket>()
  const server = createServer(client => {
    const target = connect(targetPort, '127.0.0.1')
    for (const socket of [client, target]) {
      sockets.add(socket)
      // A broken connection is what this proxy is for.
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        target.destroy()
      })
    }
    client.pipe(target)
    target.on('data', chunk => {
      if (!proxy.swallowAnswers) client.write(chunk)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const proxy: TcpProxy = {
    port: (server.address() as AddressInfo).port,
    swallowAnswers: false,
    cut: () => {
      for (const socket of sockets) socket.destroy()
    },
    close: async () => {
      proxy.cut()
      server.close()
      await once(server, 'close')
    },
  }
  return proxy
}
