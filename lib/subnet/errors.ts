/** What went wrong with a lease or the registry; each code says what the caller does. */
export type SubnetErrorCode =
  | 'ERR_SUBNET_CONFIG' // the network configuration is unusable: say so, wait for a better one
  | 'ERR_SUBNET_TAKEN' // another host was faster: pick another subnet
  | 'ERR_SUBNET_EXHAUSTED' // no free subnet in the range: say so, wait for one
  | 'ERR_LEASE_LOST' // another host holds our subnet: stop using it
  | 'ERR_HOST_CLONED' // another living host has our host id: take a new one
  | 'ERR_REGISTRY_UNAVAILABLE' // no answer from etcd: try again; a write may have happened
  | 'ERR_REGISTRY_REFUSED' // etcd answered no (credentials, permission): the operator must act
  | 'ERR_REVISION_COMPACTED' // the revision is gone from history: list again
  | 'ERR_REVISION_REGRESSED' // etcd knows fewer revisions than we saw: it was wiped or restored

export class SubnetError extends Error {
  override readonly name = 'SubnetError'
  readonly code: SubnetErrorCode

  constructor(code: SubnetErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

export function isSubnetError(
  error: unknown,
  code: SubnetErrorCode,
): error is SubnetError {
  return error instanceof SubnetError && error.code === code
}

/** etcd does not answer, or refuses: whoever waits for it tries again later. */
export function isRegistryAway(error: unknown): error is SubnetError {
  return (
    isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE') ||
    isSubnetError(error, 'ERR_REGISTRY_REFUSED')
  )
}
