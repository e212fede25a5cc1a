/** This host does not let the daemon start: what it needs is missing, taken or forbidden. */
export class StartError extends Error {
  override readonly name = 'StartError'
}
