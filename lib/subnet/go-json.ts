/** A JSON object, as far as its own keys go. */
export type JsonObject = Readonly<Record<string, unknown>>

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * Finds a key as Go's encoding/json does: the exact name first, else any
 * spelling that differs only in case. null counts as not given.
 */
export function lookUp(object: JsonObject, name: string): unknown {
  const exact = Object.hasOwn(object, name) ? object[name] : undefined
  if (exact !== undefined && exact !== null) return exact
  const folded = name.toLowerCase()
  const key = Object.keys(object).findLast(
    candidate => candidate.toLowerCase() === folded,
  )
  const value = key === undefined ? undefined : object[key]
  return value === null ? undefined : value
}

/** Keys that none of `names` matches in any spelling. */
export function unknownKeys(object: JsonObject, names: readonly string[]): string[] {
  const known = new Set(names.map(name => name.toLowerCase()))
  return Object.keys(object).filter(key => !known.has(key.toLowerCase()))
}
