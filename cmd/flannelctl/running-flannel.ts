import { readFile, readdir, readlink } from 'node:fs/promises'
import { basename } from 'node:path'

/** A flanneld that is not ours, as the kernel shows it. */
export interface RunningFlannel {
  readonly pid: number
  /** Its arguments, without the program. */
  readonly args: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  /** The unit of systemd that it belongs to; undefined when there is none. */
  readonly unit: string | undefined
  /** It runs in a container of its own: no unit of this host starts it. */
  readonly isContained: boolean
}

/** Those in this network namespace. Needs root. */
export async function findFlannel(): Promise<RunningFlannel[]> {
  const network = await readlink('/proc/self/ns/net')
  const pids = (await readdir('/proc')).filter(name => /^\d+$/.test(name))
  const found = await Promise.all(pids.map(pid => lookAt(pid, network)))
  return found.filter(each => each !== undefined)
}

/** Undefined for what is no flannel, is ours, or has ended meanwhile. */
async function lookAt(pid: string, network: string): Promise<RunningFlannel | undefined> {
  const place = `/proc/${pid}`
  try {
    if ((await readFile(`${place}/comm`, 'utf8')).trim() !== 'flanneld') return undefined
    // Ours is a program of Node.js.
    if (basename(await readlink(`${place}/exe`)).startsWith('node')) return undefined
    if ((await readlink(`${place}/ns/net`)) !== network) return undefined
    const words = await readWords(`${place}/cmdline`)
    const variables = (await readWords(`${place}/environ`)).map(word => {
      const at = word.indexOf('=')
      return [word.slice(0, at), word.slice(at + 1)] as const
    })
    const group = await readFile(`${place}/cgroup`, 'utf8')
    return {
      pid: Number(pid),
      args: words.slice(words.findIndex(word => basename(word) === 'flanneld') + 1),
      environment: Object.fromEntries(
        variables.filter(([name]) => name.startsWith('FLANNELD_')),
      ),
      unit: unitOf(group),
      isContained: /docker|containerd|crio|libpod|kubepods/.test(group),
    }
  } catch {
    return undefined
  }
}

async function readWords(path: string): Promise<string[]> {
  const text = await readFile(path, 'utf8')
  return text.split('\0').filter(word => word !== '')
}

/** @param group /proc/PID/cgroup, whose path ends in the unit (systemd.resource-control(5)). */
export function unitOf(group: string): string | undefined {
  return /\/([\w@:.\\-]+\.service)\s*$/m.exec(group)?.[1]
}
