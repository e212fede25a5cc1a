import { readFile } from 'node:fs/promises'

/** Readings that are kept, and how far they may reach back. */
const MOST_READINGS = 150
const LONGEST_MS = 300_000

/** Closer readings say more of the clock than of the traffic. */
const LEAST_MS = 900

/** Fields of a line of /proc/net/dev, counted from behind the name. */
const RECEIVED_BYTES = 0
const RECEIVED_PACKETS = 1
const SENT_BYTES = 8
const SENT_PACKETS = 9

/** Of the overlay's device, since it is there. */
export interface DeviceCounters {
  readonly sentBytes: number
  readonly sentPackets: number
  readonly receivedBytes: number
  readonly receivedPackets: number
}

/** Per second, between two readings. */
export interface Rates extends DeviceCounters {
  readonly atMs: number
}

/**
 * What went through a device while somebody looked: a reading for each look.
 * Nothing is read when nobody does.
 */
export class TrafficHistory {
  #device = ''
  #last: (DeviceCounters & { readonly atMs: number }) | undefined
  #rates: readonly Rates[] = []

  /** The oldest first. */
  get rates(): readonly Rates[] {
    return this.#rates
  }

  note(device: string, counters: DeviceCounters, atMs: number): void {
    const last = this.#last
    const isNew = device !== this.#device || last === undefined
    // A device that was made anew begins at nothing.
    const isReset = last !== undefined && counters.sentPackets < last.sentPackets
    if (isNew || isReset) this.#rates = []
    else if (atMs - last.atMs < LEAST_MS) return
    else {
      const seconds = (atMs - last.atMs) / 1000
      const rate = (name: keyof DeviceCounters): number =>
        Math.max(0, counters[name] - last[name]) / seconds
      const next = {
        atMs,
        sentBytes: rate('sentBytes'),
        sentPackets: rate('sentPackets'),
        receivedBytes: rate('receivedBytes'),
        receivedPackets: rate('receivedPackets'),
      }
      this.#rates = [...this.#rates, next]
        .filter(each => atMs - each.atMs < LONGEST_MS)
        .slice(-MOST_READINGS)
    }
    this.#device = device
    this.#last = { ...counters, atMs }
  }
}

/** Undefined when the device is gone. */
export async function readDeviceCounters(
  device: string,
): Promise<DeviceCounters | undefined> {
  return parseDeviceCounters(await readFile('/proc/self/net/dev', 'utf8'), device)
}

/** @param text of /proc/net/dev (proc(5)). */
export function parseDeviceCounters(
  text: string,
  device: string,
): DeviceCounters | undefined {
  const line = text.split('\n').find(each => each.trimStart().startsWith(`${device}:`))
  const fields = line
    ?.slice(line.indexOf(':') + 1)
    .trim()
    .split(/\s+/)
    .map(Number)
  return (
    fields && {
      sentBytes: fields[SENT_BYTES] ?? 0,
      sentPackets: fields[SENT_PACKETS] ?? 0,
      receivedBytes: fields[RECEIVED_BYTES] ?? 0,
      receivedPackets: fields[RECEIVED_PACKETS] ?? 0,
    }
  )
}
