/** Why a backend could not start or keep the host in order. */
export type BackendErrorCode =
  | 'ERR_BACKEND_UNKNOWN' // Backend.Type is none that we know: refuse to start
  | 'ERR_BACKEND_UNSUPPORTED' // known, but not by this build, kernel or address family: refuse to start
  | 'ERR_BACKEND_OPTION' // an option of the backend is unusable: refuse to start
  | 'ERR_UNDERLAY' // no interface or address to reach other hosts by: refuse to start
  | 'ERR_NETWORK_OVERLAP' // the overlay range is in use on this host: refuse to start
  | 'ERR_DEVICE' // a device, address or route could not be made: refuse to start, else retry
  | 'ERR_SOCKET' // the encapsulation socket could not be opened: refuse to start
  | 'ERR_FIREWALL' // rules could not be read or written: say so, retry at the next check
  | 'ERR_COMMAND' // a command of the extension backend failed: refuse to start
  | 'ERR_PATH' // the packet path does not answer: start another

export class BackendError extends Error {
  override readonly name = 'BackendError'
  readonly code: BackendErrorCode

  constructor(code: BackendErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
