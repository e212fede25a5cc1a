/** Loads one of the project's plain scripts; the caller says what it exports. */
export async function loadScript(name: string): Promise<unknown> {
  // From dist/test/scripts.
  const url = new URL(`../../../scripts/${name}`, import.meta.url)
  return (await import(url.href)) as unknown
}
