import type { Chance } from '../simulator/random.js'

/** Values at which arithmetic and limits break. */
const NUMBERS = [
  0, 1, 2, 4, 7, 8, 19, 20, 39, 40, 60, 127, 128, 255, 256, 1500, 32_767, 65_535,
]

/** What texts of our formats are made of. */
const WORDS = [
  ...[
    '{',
    '}',
    '[',
    ']',
    '"',
    ':',
    ',',
    '\\',
    '\n',
    '\0',
    '=',
    '#',
    '&',
    '*',
    '/',
    '-',
    '.',
    '..',
  ],
  ...['null', 'true', '-1', '1e999', '0x10', '4294967296', '18446744073709551616', '1.5'],
  ...[
    '0.0.0.0',
    '127.0.0.1',
    '224.0.0.1',
    '255.255.255.255',
    '::',
    '::1',
    'ff02::1',
    '::ffff:10.5.1.2',
  ],
  ...[
    '/0',
    '/33',
    '/129',
    '10.5.0.0/16',
    'fd00::/48',
    '__proto__',
    'constructor',
    'PublicIP',
    'Backend',
  ],
  ...[
    '$(reboot)',
    '`id`',
    ';',
    '\u{202e}',
    '\u{fffd}',
    'é',
    '%00',
    '../',
    'HTTP/1.1\r\n',
    '\r\n\r\n',
  ],
].map(word => Buffer.from(word))

const MOST_BYTES = 4096

/** A variation of an input: a few small changes, or a piece of another. */
export function mutate(input: Buffer, others: readonly Buffer[], chance: Chance): Buffer {
  let output = input
  for (let count = chance.between(1, 4); count > 0; count--)
    output = change(output, others, chance)
  return output.subarray(0, MOST_BYTES)
}

function change(given: Buffer, others: readonly Buffer[], chance: Chance): Buffer {
  const input = Buffer.from(given)
  const at = chance.between(0, Math.max(0, input.length - 1))
  const span = chance.between(1, 8)
  switch (chance.between(0, 8)) {
    case 0: // a bit
      if (input.length > 0) input[at] = (input[at] ?? 0) ^ (1 << chance.between(0, 7))
      return input
    case 1: // a byte
      if (input.length > 0) input[at] = chance.between(0, 255)
      return input
    case 2: // a number of two bytes
      if (at + 2 <= input.length) input.writeUInt16BE(chance.pick(NUMBERS) ?? 0, at)
      return input
    case 3: // something out
      return Buffer.concat([input.subarray(0, at), input.subarray(at + span)])
    case 4: // something twice
      return Buffer.concat([input.subarray(0, at + span), input.subarray(at)])
    case 5: // the end off
      return input.subarray(0, at)
    case 6: {
      // the rest of another
      const other = chance.pick(others) ?? input
      const from = chance.between(0, Math.max(0, other.length - 1))
      return Buffer.concat([input.subarray(0, at), other.subarray(from)])
    }
    case 7: // bytes of chance
      return Buffer.concat([
        input.subarray(0, at),
        Buffer.from(Array.from({ length: span }, () => chance.between(0, 255))),
        input.subarray(at),
      ])
    default: // a word, in or over
      return Buffer.concat([
        input.subarray(0, at),
        chance.pick(WORDS) ?? Buffer.alloc(0),
        input.subarray(at + (chance.once(2) ? span : 0)),
      ])
  }
}
