import type { Subnet } from './subnet-key.js'

/** Why a host gives up a subnet that it holds: the reason that a tenure's signal aborts with. */
export class TenureEnd extends Error {
  override readonly name = 'TenureEnd'
  readonly kind: 'lost' | 'cloned' | 'moved' | 'revoked' | 'released'
  readonly to: Subnet | undefined

  constructor(kind: TenureEnd['kind'], message: string, to?: Subnet) {
    super(message)
    this.kind = kind
    this.to = to
  }
}
