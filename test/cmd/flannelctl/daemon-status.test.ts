import { mkdirSync } from 'node:fs'
import { createServer } from 'node:net'
import { dirname } from 'node:path'
import t from 'tap'
import { CommandFailure } from '../../../cmd/flannelctl/command.js'
import { askDaemon } from '../../../cmd/flannelctl/daemon-status.js'
import { placesOf } from '../../../cmd/flanneld/places.js'
import { ownDirectory } from '../../helpers/own-directory.js'

t.test('a daemon that ends while it is asked', async t => {
  const directory = ownDirectory(t)
  const flags = {
    'etcd-prefix': '/coreos.com/network',
    'subnet-file': `${directory}/subnet.env`,
    'state-dir': `${directory}/state`,
    'run-dir': `${directory}/run`,
  }
  t.equal(await askDaemon(flags), undefined, 'none has been there yet')

  const { statusSocket } = placesOf(flags)
  mkdirSync(dirname(statusSocket), { recursive: true })
  const server = createServer(connection => connection.destroy())
  await new Promise<void>(resolve => server.listen(statusSocket, resolve))
  t.teardown(() => server.close())
  await t.rejects(
    askDaemon(flags),
    new CommandFailure(
      `the daemon at ${statusSocket} ended before it answered; ask again`,
    ),
  )
})
