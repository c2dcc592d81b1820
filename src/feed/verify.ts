/**
 * One comparison of the whole ledger with the whole table, in the background: sums over all rows (revocation/digest.ts)
 * of both, from the same moment, while ticks and requests go on. The session that will compute the sums of the table
 * first answers a tick in the same snapshot. Once that tick is applied, the ledger holds what the snapshot shows, and
 * its sums are copied.
 */
import type pg from 'pg'
import { type Digest, digestBuckets, digestColumns } from '../revocation/digest.ts'
import { connect, destroyClient, patiently } from '../store/connect.ts'
import type { ChangeRow } from './apply.ts'
import { keyVersion } from './cursor.ts'
import type { Touched } from './history.ts'
import { Presence } from './presence.ts'
import { readChanges } from './session.ts'

/** How long the feed's own ticks may wait for this session to answer its tick. */
const beginMs = 500
/** PostgreSQL computes the sums silently, ten million rows in eight seconds; the server itself ends the statement after five minutes. */
const sumsMs = 6 * 60_000

export class Verification {
  readonly #client: pg.Client
  readonly #schema: string
  readonly presence: Presence
  #sums: Int32Array | undefined

  private constructor(client: pg.Client, schema: string, presence: Presence) {
    this.#client = client
    this.#schema = schema
    this.presence = presence
  }

  static async open(url: string, schema: string): Promise<Verification> {
    const client = await connect({ url, kind: 'verify' })
    try {
      const presence = await Presence.show(client)
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
      return new Verification(client, schema, presence)
    } catch (error) {
      destroyClient(client)
      throw error
    }
  }

  close(): void {
    destroyClient(this.#client)
  }

  /** The first statement of the transaction: PostgreSQL takes its snapshot now. */
  async changes(snapshot: string, again: readonly Touched[]): Promise<ChangeRow[]> {
    return await patiently(this.#client, beginMs, () =>
      readChanges(this.#client, this.#schema, snapshot, again),
    )
  }

  /** Keeps the sums of the ledger, taken when it holds exactly what the snapshot shows. */
  hold(digest: Digest): void {
    this.#sums = Int32Array.from(digest.sums)
  }

  /**
   * @returns how many of the 256 buckets differ; undefined when rows of a newer release make a comparison impossible
   */
  async differing(): Promise<number | undefined> {
    const { rows } = await patiently(this.#client, sumsMs, () =>
      this.#client.query(
        `SELECT bucket, rows, ids, words, cutoffs, rest, key_version FROM ${this.#schema}.digest`,
      ),
    )
    const table = new Int32Array(digestBuckets * digestColumns)
    for (const { bucket, key_version, ...sums } of rows) {
      if (key_version > keyVersion) return undefined
      const all = [sums.rows, sums.ids, sums.words, sums.cutoffs, sums.rest] as string[]
      for (const [i, sum] of all.entries()) {
        table[bucket * digestColumns + i] = Number(BigInt.asIntN(32, BigInt(sum)))
      }
    }
    const held = this.#sums!
    let differing = 0
    for (let bucket = 0; bucket < digestBuckets; bucket++) {
      const at = bucket * digestColumns
      const same = held.subarray(at, at + digestColumns).every((sum, i) => sum === table[at + i])
      if (!same) differing++
    }
    return differing
  }
}
