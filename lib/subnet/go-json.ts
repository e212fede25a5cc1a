/** A JSON object, as far as its own keys go. */
export type JsonObject = Readonly<Record<string, unknown>>

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * Finds a key as Go's encoding/json does: in any case, and of several spellings
 * the last one that is not null.
 */
export function lookUp(object: JsonObject, name: string): unknown {
  const folded = name.toLowerCase()
  const key = Object.keys(object).findLast(
    candidate => candidate.toLowerCase() === folded && object[candidate] !== null,
  )
  return key === undefined ? undefined : object[key]
}

/** Keys that none of `names` matches in any spelling. */
export function unknownKeys(object: JsonObject, names: readonly string[]): string[] {
  const known = new Set(names.map(name => name.toLowerCase()))
  return Object.keys(object).filter(key => !known.has(key.toLowerCase()))
}
