import { listLinks } from '../../linux/ip-links.js'
import { readSysctl, writeSysctl } from '../../linux/sysctl.js'
import { baseAddress, formatAddress, formatPrefix } from '../../subnet/prefix.js'
import { prefixesOf } from '../../subnet/subnet-key.js'
import { findNetworkRoutes } from '../kernel/found.js'
import type { Kept } from '../kernel/keeper.js'
import { networksOf } from '../kernel/left.js'
import { type KernelObject, RouteToDevice } from '../kernel/objects.js'
import {
  NO_LINK_LOCAL,
  type OwnLink,
  linesToMend,
  setUpLink,
} from '../kernel/own-link.js'
import type { UdpContext } from '../udp.js'

/** The TUN device of the packet path, as the kernel is to have it, and the route into it. */
export class TunDevice implements Kept {
  readonly #context: UdpContext
  readonly #name: () => string
  #isAcceptLocalSaid = false

  /** @param name of the device now: one that somebody deletes is made anew by the path. */
  constructor(context: UdpContext, name: () => string) {
    this.#context = context
    this.#name = name
  }

  get devices(): readonly string[] {
    return [this.#name()]
  }

  get #wanted(): OwnLink {
    const { overlayMtu, subnet } = this.#context
    return {
      name: this.#name(),
      mtu: overlayMtu,
      addresses: prefixesOf(subnet).map(own => ({
        family: own.family,
        address: formatAddress(baseAddress(own)),
      })),
      networks: networksOf(this.#context),
    }
  }

  async ensureDevices(): Promise<string[]> {
    const wanted = this.#wanted
    const link = (await listLinks()).find(({ name }) => name === wanted.name)
    if (link === undefined) return []
    const isMended = await this.#acceptLocal()
    const lines = linesToMend(wanted, link)
    const first = link.up ? [] : [`link set dev ${wanted.name} ${NO_LINK_LOCAL}`]
    await setUpLink(lines.length > 0 ? [...first, ...lines] : [])
    return lines.length > 0 || isMended ? [wanted.name] : []
  }

  /**
   * ICMP errors go back into the TUN from its own address, which is a martian
   * without this. Returns whether there was something to do.
   */
  async #acceptLocal(): Promise<boolean> {
    const name = `net/ipv4/conf/${this.#name()}/accept_local`
    if ((await readSysctl(name)) === '1') return false
    try {
      await writeSysctl(name, '1')
      return true
    } catch (error) {
      // In a container /proc/sys is often read-only; packets flow all the same.
      if (!this.#isAcceptLocalSaid)
        this.#context.log.warn(
          { reason: (error as Error).message },
          'cannot set accept_local: containers do not hear that a destination is unreachable',
        )
      this.#isAcceptLocalSaid = true
      return false
    }
  }

  /** Nothing while the device is gone. */
  async want(): Promise<readonly KernelObject[] | undefined> {
    const device = this.#name()
    const isThere = (await listLinks()).some(({ name }) => name === device)
    if (!isThere) return undefined
    return networksOf(this.#context).map(
      network => new RouteToDevice(network.family, formatPrefix(network), device),
    )
  }

  async find(): Promise<readonly KernelObject[]> {
    return await findNetworkRoutes(networksOf(this.#context), this.#name())
  }
}
