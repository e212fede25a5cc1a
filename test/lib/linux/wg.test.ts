import t from 'tap'
import { parseWgDump } from '../../../lib/linux/wg.js'

const KEYS = Array.from({ length: 4 }, (_, index) =>
  Buffer.alloc(32, index + 1).toString('base64'),
)

t.test('a device and its peers are read', t => {
  const [secret = '', own = '', peer = '', psk = ''] = KEYS
  const text = [
    [secret, own, '51820', 'off'],
    [
      peer,
      psk,
      '[2001:db8::2]:51821',
      '10.5.2.0/24,fd00:5::/64',
      '1700000000',
      '10',
      '20',
      '25',
    ],
    [own, '(none)', '(none)', '(none)', '0', '0', '0', 'off'],
  ]
    .map(fields => `${fields.join('\t')}\n`)
    .join('')

  const device = parseWgDump(text)

  t.strictSame(device, {
    publicKey: own,
    listenPort: 51820,
    peers: [
      {
        publicKey: peer,
        presharedKey: psk,
        endpoint: '[2001:db8::2]:51821',
        allowedIps: ['10.5.2.0/24', 'fd00:5::/64'],
        handshakeAt: 1_700_000_000_000,
        receivedBytes: 10,
        sentBytes: 20,
        keepalive: 25,
      },
      {
        publicKey: own,
        presharedKey: undefined,
        endpoint: undefined,
        allowedIps: [],
        handshakeAt: undefined,
        receivedBytes: 0,
        sentBytes: 0,
        keepalive: 0,
      },
    ],
  })
  t.equal(parseWgDump('(none)\t(none)\t4000\toff\n').publicKey, undefined)
  t.end()
})

t.test('what is no dump is refused', t => {
  for (const text of ['', 'interface: flannel-wg', `(none)\t(none)\t1\toff\nnot a peer`])
    t.throws(() => parseWgDump(text), SyntaxError, JSON.stringify(text))
  t.end()
})
