import t from 'tap'
import {
  formatBits,
  indent,
  paint,
  pingMatrix,
} from '../../../../cmd/flannelctl/lab/report.js'

t.test('the matrix shows who reaches whom, how fast, or why not', t => {
  const to = (target: string) => ({ target, sent: 3, received: 3, errors: [] })
  const text = pingMatrix(
    ['c1', 'c2', 'c3'],
    [
      [to('c1'), { ...to('c2'), rttMs: 0.456 }, { ...to('c3'), received: 0 }],
      [
        { ...to('c1'), rttMs: 12 },
        to('c2'),
        { ...to('c3'), received: 0, errors: ['10.5.2.0: net unreachable'] },
      ],
    ],
  )

  t.equal(
    text,
    [
      'from \\ to  c1        c2       c3',
      'c1         ·         0.46 ms  no answer',
      'c2         12.00 ms  ·        10.5.2.0: net unreachable',
      '',
    ].join('\n'),
  )
  t.end()
})

t.test('speeds are told in the unit that suits them', t => {
  t.equal(formatBits(1_234_000_000), '1.23 Gbit/s')
  t.equal(formatBits(999_400_000), '999 Mbit/s')
  t.end()
})

t.test('colour is left out where it is not wanted', t => {
  t.equal(paint(false).bold('x'), 'x')
  t.equal(paint(true).bold('x'), '\u001b[1mx\u001b[22m')
  t.end()
})

t.test('every line is indented, and no blank line is left at the end', t => {
  t.equal(indent('a\nb\n', 2), '  a\n  b')
  t.end()
})
