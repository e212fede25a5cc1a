import type { HeldLease } from './acquire-lease.js'
import { hasFreeSubnet } from './allocate.js'
import type { LeaseTable } from './lease-table.js'
import { type NetworkConfig, isSubnetOfNetwork } from './network-config.js'
import type { OrderDesk } from './order-desk.js'
import type { Order, StandingOrder } from './orders.js'
import { formatSubnet, sameSubnet, subnetsOverlap } from './subnet-key.js'
import { TenureEnd } from './tenure-end.js'

export interface ObeyOrders {
  readonly desk: Pick<OrderDesk, 'order' | 'answer'>
  readonly table: Pick<LeaseTable, 'records'>
  readonly config: NetworkConfig
}

/** What the order for this host means for the subnet that it holds. */
export class OrdersObeyed {
  readonly #options: ObeyOrders
  /** The order to move that was tried last, by its revision. */
  #tried: bigint | undefined

  constructor(options: ObeyOrders) {
    this.#options = options
  }

  /** Answers the order as it is now. Throws TenureEnd when it ends the tenure. */
  async obey(held: HeldLease): Promise<void> {
    const { order } = this.#options.desk
    if (order?.kind === 'revoke')
      throw new TenureEnd('revoked', 'an order says to give the subnet back')
    if (order?.kind === 'move') await this.#obeyMove(order, held)
  }

  /**
   * Takes an order to move by writing that down, with the subnet held; one that
   * cannot be written would be obeyed again at every start. A taken one is done when
   * another subnet is held, and is tried once by each run of the daemon.
   */
  async #obeyMove(order: StandingOrder, held: HeldLease): Promise<void> {
    const { to, from } = order
    if (order.state === 'taken') {
      const hasMoved = from === undefined || !sameSubnet(from, held.subnet)
      if (!hasMoved && this.#tried !== order.modRevision) this.#move(order)
      const isWanted = hasMoved && (to === undefined || sameSubnet(to, held.subnet))
      const [state, again] = isWanted
        ? ['done' as const, '']
        : ['refused' as const, ' all the same']
      const answer = `it holds ${formatSubnet(held.subnet)}${again} now`
      await this.#options.desk.answer({ state, answer })
    }
    if (order.state !== 'open') return
    const obstacle = this.#obstacleTo(order, held)
    if (obstacle !== undefined) {
      await this.#options.desk.answer({ state: 'refused', answer: obstacle })
      return
    }
    const taken = { state: 'taken', answer: 'it is moving', from: held.subnet } as const
    if (
      (await this.#options.desk.answer(taken)) &&
      this.#options.desk.order?.state === 'taken'
    )
      this.#move(this.#options.desk.order)
  }

  #move({ to, modRevision }: StandingOrder): never {
    this.#tried = modRevision
    throw new TenureEnd('moved', 'an order says to take another subnet', to)
  }

  #obstacleTo({ to }: Order, held: HeldLease): string | undefined {
    if (held.leaseId === undefined)
      return `${formatSubnet(held.subnet)} is reserved for this host; unreserve it first`
    if (to === undefined) return this.#isAnotherFree() ? undefined : 'no other is free'
    if (!isSubnetOfNetwork(to, this.#options.config))
      return `${formatSubnet(to)} is not a subnet of the network`
    const taken = this.#options.table
      .records()
      .find(record => subnetsOverlap(record.subnet, to))
    return taken && `${formatSubnet(to)} is taken`
  }

  #isAnotherFree(): boolean {
    const { config } = this.#options
    const held = this.#options.table.records().map(({ subnet }) => subnet)
    return config.families.every(family => hasFreeSubnet(family, held))
  }
}
