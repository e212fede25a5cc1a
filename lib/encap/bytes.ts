/** Numbers in network order in byte arrays. Callers have checked that the bytes are there. */

export function readUint16(bytes: Uint8Array, start: number): number {
  return (bytes[start]! << 8) | bytes[start + 1]!
}

export function writeUint16(bytes: Uint8Array, start: number, value: number): void {
  bytes[start] = value >>> 8
  bytes[start + 1] = value
}

/** Reads four bytes as an unsigned number. */
export function readUint32(bytes: Uint8Array, start: number): number {
  return (
    ((bytes[start]! << 24) |
      (bytes[start + 1]! << 16) |
      (bytes[start + 2]! << 8) |
      bytes[start + 3]!) >>>
    0
  )
}

export function writeUint32(bytes: Uint8Array, start: number, value: number): void {
  bytes[start] = value >>> 24
  bytes[start + 1] = value >>> 16
  bytes[start + 2] = value >>> 8
  bytes[start + 3] = value
}

export function equalBytes(
  a: Uint8Array,
  aStart: number,
  b: Uint8Array,
  bStart: number,
  length: number,
): boolean {
  for (let index = 0; index < length; index++)
    if (a[aStart + index] !== b[bStart + index]) return false
  return true
}
