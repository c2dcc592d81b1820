/**
 * Records what two gates answer while rows come and go, their connections misbehave and the server crashes, and compares
 * it with what they promise: a revoked caller is refused on every request that begins `max_staleness` after the commit; before that, and
 * whatever else happens, each gate behaves like one register. 503 says nothing and is always allowed.
 */
import { Agent } from 'node:http'
import type pg from 'pg'
import { FaultyCluster } from './faulty-cluster.ts'
import { TestGate } from './gate.ts'
import { type Operation, unexplained } from './linear.ts'
import { PostgresProxy } from './postgres.ts'
import { pick } from './revoking-writers.ts'
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
  /** Writes whose acknowledgement was lost. */
  readonly uncertain: number
  /** Of the connections. */
  readonly faults: number
  /** Of the server; each ends all its sessions. */
  readonly crashes: Readonly<Record<string, number>>
  /** Let through although they began too late. */
  readonly late: readonly string[]
  /** Histories that no order explains. */
  readonly unexplained: readonly string[]
}

type Op = Operation<boolean>

const boundMs = 1000
const subjects = ['s0', 's1', 's2', 's3', 's4', 's5'] as const

export async function record(recording: Recording): Promise<Findings> {
  const { trustMs = boundMs } = recording
  const faulty = await FaultyCluster.start()
  const { cluster } = faulty
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
    return await watch(faulty, gates, proxies, recording)
  } finally {
    for (const proxy of proxies) heal(proxy)
    await Promise.all(gates.map((gate) => gate.stop()))
    for (const proxy of proxies) proxy.close()
    await faulty.close()
  }
}

async function watch(
  faulty: FaultyCluster,
  gates: readonly TestGate[],
  proxies: readonly PostgresProxy[],
  { ms, seed, faults }: Recording,
): Promise<Findings> {
  const random = seeded(seed)
  const endAt = performance.now() + ms
  const going = (): boolean => performance.now() < endAt
  /** By gate and subject; a write is in all of its subject. */
  const histories = gates.map(() => new Map(subjects.map((subject) => [subject, [] as Op[]])))
  const writers = [subjects.slice(0, 3), subjects.slice(3)].map(
    (mine) => new Writer(faulty, mine, histories),
  )
  const readers = gates.flatMap((gate, i) =>
    Array.from({ length: 3 }, () => new Reader(gate, `gate ${i}`, histories[i]!)),
  )
  const disturbances = faults ? proxies.map((proxy) => new Disturbance(proxy)) : []
  const crashes = new Crashes(faulty)
  await Promise.all([
    ...[...writers, ...readers, ...disturbances].map((each) => each.run(going, random)),
    ...(faults ? [crashes.run(going, random)] : []),
  ])
  const late = readers.flatMap(({ strange }) => strange)
  const revoked = new Set(writers.flatMap((writer) => [...writer.revoked]))
  await agree(gates, revoked)
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
  const sum = (numbers: number[]): number => numbers.reduce((a, b) => a + b, 0)
  return {
    requests: sum(readers.map(({ requests }) => requests)),
    unavailable: sum(readers.map(({ unavailable }) => unavailable)),
    writes: sum(writers.map(({ writes }) => writes)),
    uncertain: sum(writers.map(({ uncertain }) => uncertain)),
    faults: sum(disturbances.map(({ faults }) => faults)),
    crashes: crashes.counts,
    late,
    unexplained: broken,
  }
}

/** Whatever happened, in the end all gates say what the table says. */
async function agree(gates: readonly TestGate[], revoked: ReadonlySet<string>): Promise<void> {
  for (const [index, gate] of gates.entries()) {
    for (const subject of subjects) {
      const token = await gate.issuer.token(subject)
      await until(
        `gate ${index} says of ${subject} what the table says`,
        async () => {
          const { status, code } = await gate.ask('/orders', token)
          return revoked.has(subject) ? code === 'ERR_REVOKED' : status === 200
        },
        20_000,
      )
    }
  }
}

type Going = () => boolean

function between(random: () => number, low: number, high: number): number {
  return low + random() * (high - low)
}

/** Revokes its subjects and lets them in again, one write after another. */
class Writer {
  readonly revoked = new Set<string>()
  writes = 0
  uncertain = 0
  readonly #faulty: FaultyCluster
  readonly #mine: readonly string[]
  readonly #histories: readonly ReadonlyMap<string, Op[]>[]
  #client: pg.Client | undefined

  constructor(
    faulty: FaultyCluster,
    mine: readonly string[],
    histories: readonly ReadonlyMap<string, Op[]>[],
  ) {
    this.#faulty = faulty
    this.#mine = mine
    this.#histories = histories
  }

  async run(going: Going, random: () => number): Promise<void> {
    while (going()) {
      const subject = pick(random, this.#mine)
      const revokes = !this.revoked.has(subject)
      // What comes next has to know what is there: a write is tried again until it is acknowledged.
      while (!(await this.#write(subject, revokes))) await pause(20)
      this.revoked[revokes ? 'add' : 'delete'](subject)
      await pause(between(random, 20, 1600))
    }
    await this.#client?.end().catch(() => {})
  }

  /** @returns whether it was acknowledged */
  async #write(subject: string, revokes: boolean): Promise<boolean> {
    try {
      this.#client ??= await this.#faulty.server.connect('cli_url')
    } catch {
      return false
    }
    const op = { kind: 'write', value: revokes, call: performance.now() } as const
    const add = (until_: number): void => {
      for (const each of this.#histories) each.get(subject)!.push({ ...op, return: until_ })
    }
    try {
      // By subject: a row whose acknowledgement was lost may be there a second time.
      await this.#client.query(
        revokes
          ? 'INSERT INTO dropgate.revocations (subject) VALUES ($1)'
          : 'DELETE FROM dropgate.revocations WHERE subject = $1',
        [subject],
      )
    } catch {
      this.#client.end().catch(() => {})
      this.#client = undefined
      this.uncertain++
      // It may have happened or not. As the same is tried again, it is enough that its effect may come at any time.
      add(Number.POSITIVE_INFINITY)
      return false
    }
    this.writes++
    // A denial has its bound; an allowance waits until it can be proved.
    add(revokes ? performance.now() + boundMs : Number.POSITIVE_INFINITY)
    return true
  }
}

/** Asks one gate, one request after another. */
class Reader {
  requests = 0
  unavailable = 0
  /** Answers that are no answers to this. */
  readonly strange: string[] = []
  readonly #gate: TestGate
  readonly #name: string
  readonly #history: ReadonlyMap<string, Op[]>

  constructor(gate: TestGate, name: string, history: ReadonlyMap<string, Op[]>) {
    this.#gate = gate
    this.#name = name
    this.#history = history
  }

  async run(going: Going, random: () => number): Promise<void> {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const tokens = new Map<string, string>()
    for (const subject of subjects) tokens.set(subject, await this.#gate.issuer.token(subject))
    while (going()) {
      const subject = pick(random, subjects)
      const call = performance.now()
      const { status, code } = await this.#gate.ask('/orders', tokens.get(subject)!, { agent })
      const back = performance.now()
      this.requests++
      if (status === 503) this.unavailable++
      else if (status === 200 || code === 'ERR_REVOKED') {
        const value = status !== 200
        this.#history.get(subject)!.push({ kind: 'read', value, call, return: back })
      } else this.strange.push(`${this.#name}: ${status} ${code} is no answer to this`)
      await pause(between(random, 0, 8))
    }
    agent.destroy()
  }
}

/** What goes wrong between one gate and the server. */
class Disturbance {
  faults = 0
  readonly #proxy: PostgresProxy

  constructor(proxy: PostgresProxy) {
    this.#proxy = proxy
  }

  async run(going: Going, random: () => number): Promise<void> {
    const proxy = this.#proxy
    while (going()) {
      await pause(between(random, 300, 1200))
      this.faults++
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
      await pause(between(random, 50, 1800))
      heal(proxy)
    }
  }
}

/** What goes wrong with the server; it runs again after each. */
class Crashes {
  readonly counts: Record<string, number> = {}
  readonly #faulty: FaultyCluster

  constructor(faulty: FaultyCluster) {
    this.#faulty = faulty
  }

  async run(going: Going, random: () => number): Promise<void> {
    const { server } = this.#faulty
    const kinds: Readonly<Record<string, () => Promise<void>>> = {
      'one process killed': () => this.#faulty.killOne(random),
      'all processes killed': () => server.kill().then(() => server.start()),
      'immediate stop': () => server.stop('immediate').then(() => server.start()),
      'restart in order': () => server.stop('fast').then(() => server.start()),
    }
    // Each kind comes once before any comes again.
    let left: string[] = []
    while (going()) {
      await pause(between(random, 500, 2500))
      if (left.length === 0) left = Object.keys(kinds)
      const [kind] = left.splice(Math.floor(random() * left.length), 1)
      await kinds[kind!]!()
      this.counts[kind!] = (this.counts[kind!] ?? 0) + 1
    }
  }
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
