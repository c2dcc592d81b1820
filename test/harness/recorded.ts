/**
 * Records what two gates answer while rows come and go and their databases misbehave, and compares it with what they
 * promise: a revoked caller is refused on every request that begins `max_staleness` after the commit; before that, and
 * whatever else happens, each gate behaves like one register. 503 says nothing and is always allowed.
 */
import { Agent } from 'node:http'
import { TestGate } from './gate.ts'
import { type Operation, unexplained } from './linear.ts'
import type { Cluster } from './postgres.ts'
import { PostgresProxy, startPostgres } from './postgres.ts'
import { pause, seeded, until } from './wait.ts'

export interface Recording {
  readonly ms: number
  readonly seed: number
  readonly faults: boolean
  /** `max_staleness` of the gates; longer than the bound makes them break their promise. */
  readonly trustMs?: number
}

export interface Findings {
  readonly requests: number
  readonly unavailable: number
  readonly writes: number
  readonly faults: number
  /** Let through although they began too late. */
  readonly late: readonly string[]
  /** Histories that no order explains. */
  readonly unexplained: readonly string[]
}

type Op = Operation<boolean>

const boundMs = 1000
const subjects = ['s0', 's1', 's2', 's3', 's4', 's5']

export async function record(recording: Recording): Promise<Findings> {
  const { trustMs = boundMs } = recording
  const cluster = await startPostgres()
  const proxies = [new PostgresProxy(), new PostgresProxy()]
  const gates = await Promise.all(
    proxies.map((proxy) =>
      TestGate.start({
        cluster,
        databaseUrl: (url) => proxy.open(url),
        config: { revocation: { max_staleness: `${trustMs}ms`, tick: '200ms' } },
      }),
    ),
  )
  try {
    return await watch(cluster, gates, proxies, recording)
  } finally {
    for (const proxy of proxies) heal(proxy)
    await Promise.all(gates.map((gate) => gate.stop()))
    for (const proxy of proxies) proxy.close()
    await cluster.close()
  }
}

async function watch(
  cluster: Cluster,
  gates: readonly TestGate[],
  proxies: readonly PostgresProxy[],
  { ms, seed, faults }: Recording,
): Promise<Findings> {
  const random = seeded(seed)
  const between = (low: number, high: number): number => low + random() * (high - low)
  const endAt = performance.now() + ms
  const going = (): boolean => performance.now() < endAt
  /** By gate and subject; a write is in all of its subject. */
  const histories = gates.map(() => new Map(subjects.map((subject) => [subject, [] as Op[]])))
  const last = new Map<string, { revoked: boolean; id: string | undefined }>()
  let [requests, unavailable, writes, done] = [0, 0, 0, 0]
  const late: string[] = []

  const write = async (mine: readonly string[]): Promise<void> => {
    const client = await cluster.client('cli_url')
    while (going()) {
      const subject = mine[Math.floor(random() * mine.length)]!
      const { id } = last.get(subject) ?? { id: undefined }
      const call = performance.now()
      const { rows } = await client.query(
        id === undefined
          ? 'INSERT INTO dropgate.revocations (subject) VALUES ($1) RETURNING id'
          : 'DELETE FROM dropgate.revocations WHERE id = $1 RETURNING NULL AS id',
        [id ?? subject],
      )
      const acknowledged = performance.now()
      const revoked = id === undefined
      last.set(subject, { revoked, id: rows[0].id ?? undefined })
      writes++
      // A denial has its bound; an allowance waits until it can be proved.
      const until_ = revoked ? acknowledged + boundMs : Number.POSITIVE_INFINITY
      for (const each of histories) {
        each.get(subject)!.push({ kind: 'write', value: revoked, call, return: until_ })
      }
      await pause(between(20, 1600))
    }
  }

  const read = async (index: number): Promise<void> => {
    const gate = gates[index]!
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const tokens = new Map<string, string>()
    for (const subject of subjects) tokens.set(subject, await gate.issuer.token(subject))
    while (going()) {
      const subject = subjects[Math.floor(random() * subjects.length)]!
      const call = performance.now()
      const { status, code } = await gate.ask('/orders', tokens.get(subject)!, { agent })
      const back = performance.now()
      requests++
      if (status === 503) unavailable++
      else if (status === 200 || code === 'ERR_REVOKED') {
        const revoked = status !== 200
        const history = histories[index]!.get(subject)!
        history.push({ kind: 'read', value: revoked, call, return: back })
      } else late.push(`${status} ${code} is no answer to this`)
      await pause(between(0, 8))
    }
    agent.destroy()
  }

  const disturb = async (proxy: PostgresProxy): Promise<void> => {
    while (going()) {
      await pause(between(300, 1200))
      done++
      switch (Math.floor(random() * 4)) {
        case 0:
          proxy.cut()
          break
        case 1:
          proxy.refusing = true
          proxy.cut()
          break
        case 2:
          proxy.silent = true
          break
        default:
          proxy.dropNotifications = true
      }
      await pause(between(50, 1800))
      heal(proxy)
    }
  }

  await Promise.all([
    write(subjects.slice(0, 3)),
    write(subjects.slice(3)),
    ...gates.flatMap((_, index) => [read(index), read(index), read(index)]),
    ...(faults ? proxies.map(disturb) : []),
  ])
  for (const proxy of proxies) heal(proxy)
  // Whatever happened, in the end both say what the table says.
  for (const [index, gate] of gates.entries()) {
    for (const subject of subjects) {
      const token = await gate.issuer.token(subject)
      const expected = last.get(subject)?.revoked === true ? 'ERR_REVOKED' : undefined
      await until(
        `gate ${index} says of ${subject} what the table says`,
        async () => {
          const { status, code } = await gate.ask('/orders', token)
          return expected === undefined ? status === 200 : code === expected
        },
        20_000,
      )
    }
  }
  const broken: string[] = []
  for (const [index, each] of histories.entries()) {
    for (const [subject, history] of each) {
      for (const op of lateReads(history)) late.push(`gate ${index} ${subject} ${line(op)}`)
      const found = unexplained(false, history)
      if (found === undefined) continue
      const around = found.stuck.map(line).join('; ')
      broken.push(`gate ${index} ${subject}: after ${found.placed} of ${history.length}: ${around}`)
    }
  }
  return { requests, unavailable, writes, faults: done, late, unexplained: broken }
}

function heal(proxy: PostgresProxy): void {
  proxy.refusing = false
  proxy.silent = false
  proxy.dropNotifications = false
}

/** The promise itself, without any search: allowed, begun after the bound of a revocation that nothing has ended since. */
export function lateReads(history: readonly Op[]): Op[] {
  const writes = history.filter(({ kind }) => kind === 'write')
  return history.filter(({ kind, value, call, return: back }) => {
    if (kind !== 'read' || value) return false
    const before = writes.filter((write) => write.call <= back)
    const newest = before.at(-1)
    return newest?.value === true && newest.return < call
  })
}

function line({ kind, value, call, return: back }: Op): string {
  const what = kind === 'write' ? (value ? 'revoked' : 'lifted') : value ? 'denied' : 'allowed'
  return `${what} ${call.toFixed(1)} to ${back.toFixed(1)}`
}
