/**
 * Writers of every kind beside faults: some whose commits are not written out, transactions that are aborted and use up
 * ids, savepoints, and transactions that stay open. A writer whose session is lost ends; what it has committed counts.
 */
import type pg from 'pg'
import type { FaultyCluster } from './faulty-cluster.ts'
import { seeded } from './wait.ts'

/**
 * `evil` takes back, after its statements, what the triggers have set: its rows are visible before they are on disk.
 */
export const writerKinds = ['synchronous', 'asynchronous', 'evil'] as const
type WriterKind = (typeof writerKinds)[number]

/** Rows beyond these are deleted faster. */
const fewRows = 120

/** A transaction that has written; the test commits it later. */
export interface OpenTransaction {
  /** False when its session was lost. */
  commit(): Promise<boolean>
}

export class RevokingWriters {
  /** Transactions by how they ended. */
  readonly ended = { committed: 0, aborted: 0, lost: 0 }
  readonly #cluster: FaultyCluster
  readonly #subjects: readonly string[]

  constructor(cluster: FaultyCluster, subjects: readonly string[]) {
    this.#cluster = cluster
    this.#subjects = subjects
  }

  /** One writer of each kind, side by side. Ends when all have done their transactions or lost their sessions. */
  async burst(random: () => number, transactions: number): Promise<void> {
    // Each has numbers of its own: which of them is faster must not change what another one does.
    const all = writerKinds.map((kind) => [kind, seeded(random() * 2 ** 32)] as const)
    await Promise.all(all.map(([kind, own]) => this.#write(kind, own, transactions)))
  }

  /** Begins a transaction that has its id and its rows, and is not ended. */
  async open(random: () => number): Promise<OpenTransaction> {
    const kind = pick(random, writerKinds)
    const client = await this.#cluster.connect()
    await client.query(this.#body(kind, random))
    return {
      commit: async () => {
        const done = await client.query('COMMIT').then(
          () => true,
          () => false,
        )
        this.ended[done ? 'committed' : 'lost']++
        client.end().catch(() => {})
        return done
      },
    }
  }

  async #write(kind: WriterKind, random: () => number, transactions: number): Promise<void> {
    let client: pg.Client | undefined
    try {
      client = await this.#cluster.connect()
      if (kind === 'asynchronous') await client.query('SET synchronous_commit = off')
      for (let i = 0; i < transactions; i++) {
        await client.query(this.#body(kind, random))
        const aborted = random() < 0.25
        await client.query(aborted ? 'ROLLBACK' : 'COMMIT')
        this.ended[aborted ? 'aborted' : 'committed']++
      }
    } catch {
      // The session is lost, or the schema was replaced below it.
      this.ended.lost++
    } finally {
      client?.end().catch(() => {})
    }
  }

  /** From BEGIN up to its end, without it. */
  #body(kind: WriterKind, random: () => number): string {
    const some = (count: number): string =>
      `(SELECT id FROM dropgate.revocations ORDER BY random() LIMIT ${count} FOR UPDATE SKIP LOCKED)`
    const cutoff = (): string => pick(random, ['NULL', 'now()', "'2001-01-01Z'"])
    const insert = (): string =>
      `INSERT INTO dropgate.revocations (subject, issued_before)
         VALUES ('${pick(random, this.#subjects)}', ${pick(random, ['NULL', 'now()'])});`
    let sql = 'BEGIN;'
    if (random() < 0.3) sql += `SAVEPOINT s; ${insert()} ROLLBACK TO s;`
    if (random() < 0.2) sql += 'SAVEPOINT kept;'
    for (let i = 1 + Math.floor(random() * 2); i > 0; i--) sql += insert()
    // As `revoke --wait` does it.
    sql += `SELECT dropgate.expect_receipts(id) FROM dropgate.revocations WHERE chg_xid = pg_current_xact_id();`
    if (random() < 0.4) {
      sql += `DELETE FROM dropgate.revocations WHERE id IN ${some(2)}
        OR (SELECT count(*) FROM dropgate.revocations) > ${fewRows} AND id IN ${some(8)};`
    }
    if (random() < 0.4)
      sql += `UPDATE dropgate.revocations SET issued_before = ${cutoff()} WHERE id IN ${some(2)};`
    if (kind === 'evil') sql += 'SET LOCAL synchronous_commit = off;'
    return sql
  }
}

export function pick<T>(random: () => number, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)]!
}
