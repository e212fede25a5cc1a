import { z } from 'zod'
import { type IpFamily, ipJson, parseIpJson } from './ip-json.js'
import { run } from './run.js'

/** Who is where on a link: neighbour tables, and forwarding databases of VXLAN devices. */

const neighbourSchema = z.object({
  dst: z.string(),
  lladdr: z.string().optional(),
  state: z.array(z.string()).default([]),
})

const fdbSchema = z.object({
  mac: z.string(),
  dst: z.string().optional(),
  state: z.string().optional(),
})

/** A permanent entry of the neighbour table. */
export interface Neighbour {
  readonly address: string
  readonly mac: string
}

/** A permanent entry of a VXLAN device's forwarding database. */
export interface FdbEntry {
  readonly mac: string
  readonly destination: string
}

/** Permanent neighbours on a device. None when there is no such device. */
export async function listNeighbours(
  family: IpFamily,
  device: string,
): Promise<Neighbour[]> {
  const args = [`-${family}`, 'neigh', 'show', 'dev', device, 'nud', 'permanent']
  const text = await ofDevice(() => ipJson(args))
  return parseIpJson(text, z.array(neighbourSchema)).flatMap(({ dst, lladdr }) =>
    lladdr === undefined ? [] : [{ address: dst, mac: lladdr }],
  )
}

/** Permanent entries of a VXLAN device. None when there is no such device. */
export async function listFdb(device: string): Promise<FdbEntry[]> {
  const args = ['-json', 'fdb', 'show', 'dev', device]
  const text = await ofDevice(() => run('bridge', args))
  return parseIpJson(text, z.array(fdbSchema)).flatMap(({ mac, dst, state }) =>
    dst === undefined || state !== 'permanent' ? [] : [{ mac, destination: dst }],
  )
}

async function ofDevice(list: () => Promise<string>): Promise<string> {
  try {
    return await list()
  } catch (error) {
    if (/Cannot find device|No such device/.test((error as Error).message)) return ''
    throw error
  }
}
