import type { Remote } from '../../lib/backend/backend.js'
import { formatSubnet } from '../../lib/subnet/subnet-key.js'

/**
 * Which remotes have one public address together, as hosts behind one NAT do.
 * They listen on one port, so that of each group one host gets the packets of all.
 */
export class SharedAddresses {
  readonly #remotes = new Map<string, Set<Remote>>()
  /** Addresses of more than one remote. */
  readonly #shared = new Set<string>()

  add(address: string, remote: Remote): void {
    const remotes = this.#remotes.get(address) ?? new Set()
    this.#remotes.set(address, remotes.add(remote))
    if (remotes.size > 1) this.#shared.add(address)
  }

  delete(address: string, remote: Remote): void {
    const remotes = this.#remotes.get(address)
    remotes?.delete(remote)
    if ((remotes?.size ?? 0) < 2) this.#shared.delete(address)
    if (remotes?.size === 0) this.#remotes.delete(address)
  }

  /** What an operator should know of it; undefined when every address is one remote's. */
  describe(): string | undefined {
    const groups = [...this.#shared].map(address => {
      const remotes = [...(this.#remotes.get(address) ?? [])]
      const subnets = remotes.map(({ subnet }) => formatSubnet(subnet)).join(', ')
      return `${subnets} share the public address ${address}`
    })
    if (groups.length === 0) return undefined
    return `${groups.join('; ')}: only one host of each is reached; give each an address of its own (--public-ip)`
  }
}
