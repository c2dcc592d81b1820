/**
 * The crash fuzz: rounds in which the history of a server breaks off while gates are cut off and writers of every kind go
 * on. After each round the ledger of each gate equals the table and each caller is answered rightly. What a round does is
 * decided by the seed and the round's number before it begins; how it is interleaved is up to the machine.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { Agent } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { partsOf } from '../../src/feed/cursor.ts'
import { FaultyCluster, type Position } from './faulty-cluster.ts'
import { compare } from './follower.ts'
import { type FaultName, faultNames, faults } from './histories.ts'
import { TestIssuer } from './issuer.ts'
import { PromiseWatch } from './promise-watch.ts'
import { type OpenTransaction, pick, RevokingWriters } from './revoking-writers.ts'
import { pause, seeded, until } from './wait.ts'
import { type Cut, cuts, WatchedGate } from './watched-gate.ts'

/** What a round will do. */
export interface RoundPlan {
  /** By which what happens within the round is chosen. */
  readonly seed: number
  readonly faults: readonly FaultName[]
  /** For each gate: how it is cut off before the faults, or stopped, to start from its file after them. */
  readonly away: readonly (Cut | 'stopped' | undefined)[]
  /** Before a second fault they are let in, without the time to read anything in peace. */
  readonly backBetween: boolean
  /** Writers go on during the faults; otherwise nothing makes the server write out the ids that were used up. */
  readonly busy: boolean
  readonly notifications: 'come' | 'are lost' | 'come late'
  /** Ids that the gates see used up before the faults. */
  readonly burnt: number
  /** Before a gate can see anything, the server is beyond what the gates have seen. */
  readonly outruns: boolean
  /** Transactions that have their ids before that, and end after the gates are back. */
  readonly late: number
  readonly transactions: number
}

export interface RoundsOptions {
  readonly seed: number
  readonly gates: number
  readonly historyRule?: 'off' | undefined
  readonly say: (line: string) => void
}

export interface Figures {
  readonly rounds: number
  /** Faults, cuts and what else went wrong on purpose, by kind. */
  readonly faults: Readonly<Record<string, number>>
  /** Rounds after which something was wrong. */
  readonly wrongRounds: number
  /** Rows that a gate lacked, or held in another version. */
  readonly missedRows: number
  /** Rows that a gate held and the table did not. */
  readonly phantomRows: number
  readonly wrongAnswers: number
  readonly falseReceipts: number
  readonly phantomAllows: number
  readonly receipts: number
  readonly requests: number
  readonly loads: number
  readonly reconnects: number
  readonly transactions: Readonly<Record<string, number>>
}

/** Lines about one round. */
const maxSaid = 8
const subjects = Array.from({ length: 40 }, (_, i) => `caller-${i}`)

export function planOf(seed: number, round: number, gates: number): RoundPlan {
  const own = seed * 7919 + round
  const random = seeded(own)
  // Each kind comes once before any comes again.
  const deck = seeded(seed + Math.floor(round / faultNames.length))
  const order = faultNames.map((name) => [deck(), name] as const).sort(([a], [b]) => a - b)
  const first = order[round % faultNames.length]![1]
  const quick = ['one process killed', 'all processes killed', 'immediate stop'] as const
  const second = random() < 0.3 ? [pick(random, [...quick, pick(random, faultNames)])] : []
  const stopped = random() < 0.2 ? Math.floor(random() * gates) : -1
  return {
    seed: own,
    faults: [first, ...second],
    away: Array.from({ length: gates }, (_, i) =>
      i === stopped ? 'stopped' : random() < 0.65 ? pick(random, cuts) : undefined,
    ),
    backBetween: random() < 0.4,
    busy: random() < 0.5,
    notifications: pick(random, ['come', 'come', 'are lost', 'come late']),
    burnt: Math.floor(random() * 120),
    outruns: random() < 0.75,
    late: Math.max(0, Math.floor(random() * 6) - 2),
    transactions: 2 + Math.floor(random() * 8),
  }
}

export class HistoryRounds {
  readonly #cluster: FaultyCluster
  readonly #gates: readonly WatchedGate[]
  readonly #issuer: TestIssuer
  readonly #tokens: ReadonlyMap<string, string>
  readonly #writers: RevokingWriters
  readonly #watch: PromiseWatch
  readonly #folder: string
  readonly #faults: Record<string, number> = {}
  readonly #found = { rounds: 0, wrongRounds: 0, missedRows: 0, phantomRows: 0, wrongAnswers: 0 }

  #said = { receipts: 0, allows: 0 }
  /** However this process ends. */
  readonly #leave = (): void => {
    for (const folder of [this.#folder, ...this.#up.map(({ gate }) => gate.folder)])
      rmSync(folder, { recursive: true, force: true })
  }

  private constructor(
    options: RoundsOptions,
    parts: { cluster: FaultyCluster; issuer: TestIssuer; tokens: Map<string, string> },
  ) {
    const { cluster, issuer, tokens } = parts
    this.#cluster = cluster
    this.#issuer = issuer
    this.#tokens = tokens
    this.#folder = mkdtempSync(join(tmpdir(), 'dropgate-histories-'))
    this.#writers = new RevokingWriters(cluster, subjects)
    this.#gates = Array.from({ length: options.gates }, (_, i) => {
      const snapshotFile = join(this.#folder, `${i}.snapshot`)
      return new WatchedGate({ cluster, issuer, snapshotFile, historyRule: options.historyRule })
    })
    process.once('exit', this.#leave)
    this.#watch = new PromiseWatch(cluster, this.#gates, tokens, seeded(options.seed))
  }

  static async start(options: RoundsOptions): Promise<HistoryRounds> {
    const cluster = await FaultyCluster.start()
    const issuer = new TestIssuer()
    await issuer.open()
    const now = Math.floor(Date.now() / 1000)
    const tokens = new Map<string, string>()
    for (const subject of subjects) {
      // Issued before any row is made; valid for as long as a long run takes.
      const claims = { iat: now - 60, exp: now + 12 * 3600 }
      tokens.set(subject, await issuer.token(subject, { claims }))
    }
    const rounds = new HistoryRounds(options, { cluster, issuer, tokens })
    try {
      for (const gate of rounds.#gates) await gate.start()
    } catch (error) {
      await rounds.close()
      throw error
    }
    rounds.#watch.open()
    return rounds
  }

  /** @returns what is wrong after it, in words */
  async round(plan: RoundPlan): Promise<readonly string[]> {
    const random = seeded(plan.seed)
    const { burnt, late, transactions } = plan
    this.#disturb(plan)
    let seen: Position = { xid: 0n, lsn: '0/0' }
    const open: OpenTransaction[] = []
    const write = (): Promise<void> => this.#writers.burst(random, transactions)
    for (const [i, name] of plan.faults.entries()) {
      if (i > 0 && plan.backBetween) for (const gate of this.#up) gate.letIn()
      const strike = await faults[name](this.#cluster, random, write)
      this.#count(name)
      await write()
      if (i === 0) {
        await this.#cluster.burn(burnt)
        await Promise.all(this.#up.map((gate) => gate.ticked()))
        await this.#sendAway(plan)
      }
      const beside = plan.busy ? write() : undefined
      await pause(random() * 60)
      seen = further(seen, await this.#cluster.position())
      await this.#cluster.breakBy(strike)
      await beside
    }
    for (let i = 0; i < late; i++) open.push(await this.#writers.open(random))
    await write()
    if (plan.outruns) await this.#outrun(seen)
    await this.#letIn(plan)
    for (const each of open) await each.commit()
    return await this.#verify(plan)
  }

  /** @returns promises that the watch has found broken since the last call */
  broken(): readonly string[] {
    const { falseReceipts, phantomAllows } = this.#watch
    const allows = phantomAllows.slice(this.#said.allows)
    const receipts = falseReceipts.length - this.#said.receipts
    const said = allows.map((text) => `phantom allow: ${text}`)
    if (receipts > 0) said.push(`${receipts} false receipts, the last: ${falseReceipts.at(-1)}`)
    this.#said = { receipts: falseReceipts.length, allows: phantomAllows.length }
    return said
  }

  figures(): Figures {
    const { falseReceipts, phantomAllows, looked } = this.#watch
    const counted = this.#gates.map((gate) => gate.counted)
    return {
      ...this.#found,
      faults: this.#faults,
      falseReceipts: falseReceipts.length,
      phantomAllows: phantomAllows.length,
      ...looked,
      loads: counted.reduce((sum, { loads }) => sum + loads, 0),
      reconnects: counted.reduce((sum, { reconnects }) => sum + reconnects, 0),
      transactions: this.#writers.ended,
    }
  }

  async close(): Promise<void> {
    await this.#watch.close()
    for (const gate of this.#gates) await gate.close()
    this.#issuer.close()
    await this.#cluster.close()
    this.#leave()
    process.off('exit', this.#leave)
  }

  get #up(): readonly WatchedGate[] {
    return this.#gates.filter(({ running }) => running)
  }

  #count(what: string): void {
    this.#faults[what] = (this.#faults[what] ?? 0) + 1
  }

  #disturb({ notifications }: RoundPlan): void {
    if (notifications === 'come') return
    this.#count(`notifications ${notifications}`)
    for (const { proxy } of this.#gates) {
      if (notifications === 'are lost') proxy.dropNotifications = true
      else proxy.holding = 'notifications'
    }
  }

  async #sendAway({ away }: RoundPlan): Promise<void> {
    for (const [i, how] of away.entries()) {
      if (how === undefined) continue
      this.#count(`gate ${how === 'stopped' ? 'stopped' : `cut off: ${how}`}`)
      const gate = this.#gates[i]!
      if (how === 'stopped') await gate.stop()
      else gate.cutOff(how)
    }
  }

  /** Ids and log beyond what the server had given out, and beyond the cursors of the gates. */
  async #outrun({ xid, lsn }: Position): Promise<void> {
    let target = xid
    for (const { feed } of this.#up) {
      const at = feed.cursor === null ? 0n : partsOf(feed.cursor).xmax
      if (at > target) target = at
    }
    await this.#cluster.outrun({ xid: target + 5n, lsn })
  }

  async #letIn({ away }: RoundPlan): Promise<void> {
    for (const gate of this.#gates) gate.letIn()
    for (const [i, how] of away.entries()) if (how === 'stopped') await this.#gates[i]!.start()
    await Promise.all(this.#gates.map((gate) => gate.followsAgain()))
  }

  async #verify(plan: RoundPlan): Promise<string[]> {
    await Promise.all(this.#gates.map((gate) => gate.followsAgain()))
    const client = await this.#cluster.connect()
    const wrong: string[] = []
    try {
      const revoked = await client.query(
        `SELECT DISTINCT subject FROM dropgate.revocations
         WHERE issued_before IS NULL OR issued_before > now() - interval '1 day'`,
      )
      const denied = new Set(revoked.rows.map(({ subject }) => subject as string))
      for (const [i, gate] of this.#gates.entries()) {
        const differences = await compare(gate.compared, client)
        const answers = await this.#wrongAnswers(gate, denied)
        this.#found.missedRows += differences.filter((text) => text.startsWith('missed')).length
        this.#found.phantomRows += differences.filter((text) => text.startsWith('phantom')).length
        this.#found.wrongAnswers += answers.length
        const how = plan.away[i] ?? 'never away'
        wrong.push(...[...differences, ...answers].map((text) => `gate ${i} (${how}): ${text}`))
      }
    } finally {
      await client.end()
    }
    this.#found.rounds++
    if (wrong.length > 0) {
      this.#found.wrongRounds++
      await this.#heal()
    }
    return wrong
  }

  async #wrongAnswers(gate: WatchedGate, denied: ReadonlySet<string>): Promise<string[]> {
    const agent = new Agent({ keepAlive: true, maxSockets: 4 })
    const answers = await Promise.all(
      [...this.#tokens].map(async ([subject, token]) => {
        let got = ''
        // 503 says nothing: the machine is busy.
        await until(`${subject} is answered`, async () => {
          const { status, code } = await gate.gate.ask('/orders', token, { agent })
          got = code ?? `${status}`
          return status !== 503
        })
        const expected = denied.has(subject) ? 'ERR_REVOKED' : '200'
        return got === expected ? [] : [`${subject} got ${got}, not ${expected}`]
      }),
    )
    agent.destroy()
    return answers.flat()
  }

  /** Every gate loads everything anew, so that each round is counted for itself. */
  async #heal(): Promise<void> {
    const before = this.#gates.map(({ feed }) => feed.loads)
    await this.#cluster.server.ask('TRUNCATE dropgate.tomb')
    await until('every gate has loaded', () =>
      this.#gates.every(({ feed }, i) => feed.loads > before[i]!),
    )
    await Promise.all(this.#gates.map((gate) => gate.followsAgain()))
    this.#watch.forget()
  }
}

/** Runs rounds, and says of each that went wrong with what it began. */
export async function runRounds(
  options: RoundsOptions & { readonly plans: readonly RoundPlan[] },
): Promise<Figures> {
  const { seed, say, plans } = options
  const rounds = await HistoryRounds.start(options)
  try {
    for (const [i, plan] of plans.entries()) {
      const at = `round ${i} of SEED=${seed}: ${JSON.stringify(plan)}`
      let wrong: readonly string[]
      try {
        wrong = await rounds.round(plan)
      } catch (cause) {
        throw new Error(`${at}: ${(cause as Error).message}`, { cause })
      }
      const found = [...rounds.broken(), ...wrong]
      if (found.length > 0) say([at, ...found.slice(0, maxSaid)].join('\n  '))
    }
    return rounds.figures()
  } finally {
    await rounds.close()
  }
}

function further(a: Position, b: Position): Position {
  return a.xid > b.xid ? { ...a, lsn: b.lsn } : b
}
