import { z } from 'zod'

const lease = z.looseObject({
  subnet: z.string(),
  key: z.string(),
  expiresInSeconds: z.number().nullable(),
  record: z.looseObject({
    PublicIP: z.string(),
    HostID: z.string().optional(),
  }),
})

/** What is measured of the way to a remote, once the daemon measures it. */
const path = z.looseObject({
  state: z.enum(['unknown', 'up', 'silent', 'unreachable']),
  roundTripMs: z.number().nullable(),
  loss: z.number().nullable(),
  overlayRoundTripMs: z.number().nullable(),
  overlayLoss: z.number().nullable(),
  pathMtu: z.number().nullable(),
  trouble: z.string().nullable(),
})

/** Of backends that keep one with each remote. */
const session = z.object({
  handshakeSeconds: z.number().nullable(),
  sentBytes: z.number(),
  receivedBytes: z.number(),
  trouble: z.string().nullable(),
})

const remote = z.looseObject({
  subnet: z.string(),
  device: z.string().optional(),
  /** By which each family of the subnet leaves, where they differ. */
  devices: z.array(z.string()).optional(),
  nextHop: z.string().optional(),
  path: path.optional(),
  session: session.optional(),
  record: z.looseObject({
    PublicIP: z.string(),
    PublicIPv6: z.string().nullish(),
    BackendType: z.string().optional(),
    HostID: z.string().optional(),
  }),
})

/** What we rely on in a daemon's answer; the sections come when the daemon has got that far. */
export const statusSchema = z.looseObject({
  pid: z.number(),
  version: z.string().optional(),
  phase: z.enum(['starting', 'waiting', 'ready', 'stopping']),
  waitingFor: z.string().optional(),
  etcdReachable: z.boolean(),
  troubles: z.record(z.string(), z.string()),
  notes: z.record(z.string(), z.string()),
  ignoredRecords: z.array(z.looseObject({ key: z.string(), why: z.string() })),
  networks: z.array(z.string()).optional(),
  lease: lease.optional(),
  backend: z
    .looseObject({
      type: z.string(),
      device: z.string(),
      mtu: z.number().optional(),
      listen: z.string().optional(),
      carriedBy: z.string().optional(),
    })
    .optional(),
  underlay: z
    .looseObject({
      device: z.string(),
      mtu: z.number(),
      addresses: z.array(z.string()),
      carrier: z.string(),
      longest: z.number(),
      isAnsweredAtBase: z.boolean(),
      hasMtuOption: z.boolean(),
      ports: z.array(z.number()),
      peerPort: z.number(),
    })
    .optional(),
  remotes: z.array(remote).optional(),
  probes: z.looseObject({ trouble: z.string().nullable() }).optional(),
})

export type DaemonStatus = z.infer<typeof statusSchema>
