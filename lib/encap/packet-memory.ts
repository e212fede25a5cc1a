import { fold, sumWords } from './checksum.js'

/**
 * Memory that packets lie in. Everything is reached by its place in it, so that
 * system calls and WebAssembly work on the same bytes and nothing is copied.
 */
export interface PacketMemory {
  readonly bytes: Uint8Array
  /** The sum of bytes of this memory, as sumWords has it. */
  readonly sum: (start: number, length: number) => number
}

const PAGE = 65_536

/** Memory of at least `size` bytes that never moves or grows. */
export function allocatePackets(size: number): PacketMemory {
  const pages = Math.ceil(size / PAGE)
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages })
  const bytes = new Uint8Array(memory.buffer)
  const plain = (start: number, length: number): number => sumWords(bytes, start, length)
  return { bytes, sum: simdSum(memory) ?? plain }
}

/** A sum of ten times the speed; undefined on a processor without 128-bit SIMD. */
function simdSum(memory: WebAssembly.Memory): PacketMemory['sum'] | undefined {
  if (!WebAssembly.validate(SUM_MODULE)) return undefined
  const module = new WebAssembly.Module(SUM_MODULE)
  const { exports } = new WebAssembly.Instance(module, { m: { m: memory } })
  const sum = exports['s'] as (start: number, length: number) => number
  return (start, length) => {
    // WebAssembly is little-endian: the sum of swapped words is the swapped sum.
    const swapped = fold(sum(start, length) >>> 0)
    return ((swapped & 0xff) << 8) | (swapped >>> 8)
  }
}

// What follows is a WebAssembly module, written in its binary format
// (webassembly.github.io/spec/core/binary): there is no tool between the source
// and what runs.

const I32 = 0x7f
const V128 = 0x7b

/** Locals of the function: two parameters, then four vectors of sums and a plain one. */
const AT = 0
const LEFT = 1
const SUMS = [2, 3, 4, 5] as const
const REST = 6

const get = (local: number): number[] => [0x20, local]
const set = (local: number): number[] => [0x21, local]
/** A constant from 0 to 63 is one byte; 64 would be read as -64. */
const constant = (value: number): number[] =>
  value < 64 ? [0x41, value] : [0x41, 0x80 | (value & 0x7f), value >>> 7]
const ADD = 0x6a
const SUBTRACT = 0x6b
const LESS = 0x49
const END = 0x0b
const ADD_I32X4 = [0xfd, 0xae, 0x01]
const loadPairs = (offset: number): number[] => [
  ...get(AT),
  ...[0xfd, 0x00, 0x00, offset], // v128.load, unaligned
  ...[0xfd, 0x7f], // i32x4.extadd_pairwise_i16x8_u
]
const addPairs = (sums: number, offset: number): number[] => [
  ...get(sums),
  ...loadPairs(offset),
  ...ADD_I32X4,
  ...set(sums),
]
const advance = (size: number): number[] => [
  ...get(AT),
  ...constant(size),
  ADD,
  ...set(AT),
  ...get(LEFT),
  ...constant(size),
  SUBTRACT,
  ...set(LEFT),
]
/** Repeats a body of `size` bytes' work while so many are left. */
const whileLeft = (size: number, body: readonly number[]): number[] => [
  ...[0x02, 0x40, 0x03, 0x40], // block, loop
  ...get(LEFT),
  ...constant(size),
  LESS,
  ...[0x0d, 1], // br_if: leave the block
  ...body,
  ...advance(size),
  ...[0x0c, 0, END, END], // br: again
]
const addRest = (load: readonly number[]): number[] => [
  ...get(REST),
  ...get(AT),
  ...load,
  ADD,
  ...set(REST),
]
const lane = (index: number): number[] => [...get(SUMS[0]), 0xfd, 0x1b, index]

const FUNCTION = [
  ...[2, SUMS.length, V128, 1, I32], // two kinds of locals
  ...whileLeft(
    64,
    SUMS.flatMap((sums, index) => addPairs(sums, 16 * index)),
  ),
  ...whileLeft(16, addPairs(SUMS[0], 0)),
  ...whileLeft(2, addRest([0x2f, 0, 0])), // i32.load16_u
  ...whileLeft(1, addRest([0x2d, 0, 0])), // i32.load8_u
  ...SUMS.slice(1).flatMap(sums => [
    ...get(SUMS[0]),
    ...get(sums),
    ...ADD_I32X4,
    ...set(SUMS[0]),
  ]),
  ...get(REST),
  ...[0, 1, 2, 3].flatMap(index => [...lane(index), ADD]),
  END,
]

const size = (value: number): number[] =>
  value < 128 ? [value] : [0x80 | (value & 0x7f), value >>> 7]
const section = (id: number, content: readonly number[]): number[] => [
  id,
  ...size(content.length),
  ...content,
]
const [M, S] = [0x6d, 0x73]

const SUM_MODULE = Uint8Array.of(
  ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0], // \0asm, version 1
  ...section(1, [1, 0x60, 2, I32, I32, 1, I32]), // a type: (i32, i32) -> i32
  ...section(2, [1, 1, M, 1, M, 0x02, 0x00, 1]), // import m.m, a memory of 1 page or more
  ...section(3, [1, 0]), // a function of that type
  ...section(7, [1, 1, S, 0x00, 0]), // export it as s
  ...section(10, [1, ...size(FUNCTION.length), ...FUNCTION]),
)
