/**
 * Looks, beside everything else, whether gates break their promise: a receipt for a row that the gate does not hold, or a
 * request of a revoked caller that is allowed although it began `max_staleness` after the commit was acknowledged.
 */
import type pg from 'pg'
import type { FaultyCluster } from './faulty-cluster.ts'
import { pick } from './revoking-writers.ts'
import { pause } from './wait.ts'
import { maxStalenessMs, type WatchedGate } from './watched-gate.ts'

/** Rows that hit these callers now: blocks, and cutoffs after their tokens were issued. */
const revokedSql = `SELECT subject, concat_ws(' ', id, chg_xid, created_at) AS row FROM dropgate.revocations
  WHERE issued_before IS NULL OR issued_before > now() - interval '1 day'`
const receiptsSql = `SELECT c.gate, r.id, encode(r.keys, 'hex') AS keys, r.chg_xid::text AS xid
  FROM dropgate.receipts c JOIN dropgate.revocations r ON r.id = c.row_id WHERE c.gate = ANY ($1)`

/** Rows of the table at a moment. */
interface Look {
  readonly atMs: number
  readonly history: number
  readonly rows: readonly { readonly subject: string; readonly row: string }[]
}

export class PromiseWatch {
  readonly falseReceipts: string[] = []
  readonly phantomAllows: string[] = []
  readonly looked = { receipts: 0, requests: 0 }
  readonly #cluster: FaultyCluster
  readonly #gates: readonly WatchedGate[]
  readonly #tokens: ReadonlyMap<string, string>
  readonly #random: () => number
  readonly #known = new Set<string>()
  #looks: Look[] = []
  #client: pg.Client | undefined
  #closed = false
  #running: Promise<void> | undefined

  constructor(
    cluster: FaultyCluster,
    gates: readonly WatchedGate[],
    tokens: ReadonlyMap<string, string>,
    random: () => number,
  ) {
    this.#cluster = cluster
    this.#gates = gates
    this.#tokens = tokens
    this.#random = random
  }

  open(): void {
    this.#running = this.#run()
  }

  /** What is found from here on is counted anew: the gates were healed. */
  forget(): void {
    this.#looks = []
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#running
  }

  async #run(): Promise<void> {
    while (!this.#closed) {
      try {
        if (!this.#cluster.breaking) {
          this.#client ??= await this.#cluster.connect()
          await this.#watchReceipts(this.#client)
          await this.#watchRequests(this.#client)
        }
      } catch {
        // The server is away.
        this.#client?.end().catch(() => {})
        this.#client = undefined
      }
      await pause(40 + this.#random() * 80)
    }
    await this.#client?.end().catch(() => {})
  }

  async #watchReceipts(client: pg.Client): Promise<void> {
    const gates = new Map(this.#up.map((gate) => [gate.id, gate]))
    const { history } = this.#cluster
    const given = async () => (await client.query(receiptsSql, [[...gates.keys()]])).rows
    const receipts = await given()
    this.looked.receipts += receipts.length
    const held = new Map([...gates].map(([id, gate]) => [id, gate.held()]))
    const suspects = receipts.filter(
      ({ gate, id, keys }) => held.get(gate)!.get(Number(id))?.includes(keys) !== true,
    )
    if (suspects.length === 0) return
    // Deleted meanwhile, perhaps. What is still there was there all the time.
    const still = new Set((await given()).map((row) => JSON.stringify(row)))
    if (history !== this.#cluster.history) return
    for (const row of suspects) {
      const text = JSON.stringify(row)
      if (!still.has(text) || this.#known.has(text)) continue
      this.#known.add(text)
      const by = held.get(row.gate)!.has(Number(row.id)) ? 'another row of that id' : 'no such row'
      const cursor = gates.get(row.gate)!.feed.cursor
      this.falseReceipts.push(
        `row ${row.id} of transaction ${row.xid}, of a gate that holds ${by} at ${cursor}`,
      )
    }
  }

  async #watchRequests(client: pg.Client): Promise<void> {
    const look = async (): Promise<Look> => {
      const { history } = this.#cluster
      const { rows } = await client.query(revokedSql)
      return { atMs: performance.now(), history, rows }
    }
    this.#looks.push(await look())
    const due = this.#looks.findLastIndex(({ atMs }) => performance.now() > atMs + maxStalenessMs)
    if (due === -1) return
    const then = this.#looks[due]!
    this.#looks.splice(0, due + 1)
    if (then.rows.length === 0 || then.history !== this.#cluster.history) return
    const asked = this.#up.flatMap((gate) =>
      Array.from({ length: 3 }, () => ({ gate, ...pick(this.#random, then.rows) })),
    )
    const statuses = await Promise.all(
      asked.map(({ gate, subject }) =>
        gate.gate.ask('/orders', this.#tokens.get(subject)!).then(
          ({ status }) => status,
          () => 0,
        ),
      ),
    )
    this.looked.requests += statuses.filter((status) => status !== 503).length
    if (!statuses.includes(200)) return
    const still = new Set((await look()).rows.map(({ row }) => row))
    if (then.history !== this.#cluster.history) return
    for (const [i, { gate, subject, row }] of asked.entries()) {
      const text = `${gate.id} ${row}`
      if (statuses[i] !== 200 || !still.has(row) || this.#known.has(text)) continue
      this.#known.add(text)
      this.phantomAllows.push(`${subject}, revoked by row ${row}`)
    }
  }

  get #up(): readonly WatchedGate[] {
    return this.#gates.filter(({ running }) => running)
  }
}
