import { basename } from 'node:path'
import { batch } from '../../linux/ip-batch.js'
import { listLinks } from '../../linux/ip-links.js'
import type { BackendContext } from '../backend.js'
import { BackendError } from '../errors.js'
import type { Prefix } from '../../subnet/prefix.js'
import { findObjects } from './found.js'
import { type KernelObject, RouteToNowhere } from './objects.js'
import { endVerification } from './verification.js'

/** The alias of a link that this daemon made: it tells it from those of other daemons. */
export function linkAlias({ runDir }: Pick<BackendContext, 'runDir'>): string {
  return `flanneld:${basename(runDir)}`
}

export function networksOf({ config }: Pick<BackendContext, 'config'>): Prefix[] {
  return config.families.map(({ network }) => network)
}

/** What a backend type, VNI or earlier run has left in the kernel. */
export interface LeftInKernel {
  readonly links: readonly string[]
  readonly routes: readonly KernelObject[]
}

export async function findLeft(
  { runDir }: Pick<BackendContext, 'runDir'>,
  networks: readonly Prefix[],
): Promise<LeftInKernel> {
  const alias = linkAlias({ runDir })
  const links = (await listLinks()).filter(link => link.alias === alias)
  return {
    links: links.map(({ name }) => name),
    routes: await findObjects(networks, []),
  }
}

/**
 * Takes it away.
 *
 * @param kept devices that stay, and routes with them; undefined when no route
 *   to a remote is wanted.
 * @param keepsRefusals routes that refuse packets stay all the same.
 */
export async function removeLeft(
  context: Pick<BackendContext, 'config' | 'runDir' | 'log'>,
  kept: readonly string[] | undefined,
  keepsRefusals = false,
): Promise<void> {
  try {
    const { links, routes } = await findLeft(context, networksOf(context))
    const unwanted = routes.filter(
      route => !(keepsRefusals && route instanceof RouteToNowhere),
    )
    await batch([
      ...(kept === undefined ? unwanted.map(({ remove }) => remove) : []),
      ...links.filter(name => kept?.includes(name) !== true).map(deletionOf),
    ])
    if (kept === undefined) await endVerification(context)
  } catch (cause) {
    throw new BackendError('ERR_DEVICE', (cause as Error).message, { cause })
  }
}

export function deletionOf(link: string): string {
  return `link delete ${link}`
}
