/** A feed with its ledger, and the comparison that everything here comes down to: ledger against table. */
import type pg from 'pg'
import type { RevocationRow } from '../../src/domain/revocation.ts'
import { revocationKind } from '../../src/feed/apply.ts'
import { Feed, type FeedStatus } from '../../src/feed/feed.ts'
import type { HistoryRule } from '../../src/feed/history.ts'
import { Ledger } from '../../src/revocation/ledger.ts'
import { connect, destroyClient } from '../../src/store/connect.ts'
import type { Cluster } from './postgres.ts'
import { pause, seeded, until } from './wait.ts'

export interface Followed {
  readonly feed: Feed
  readonly ledger: Ledger
  /** What was said at `warn` and `error`. */
  readonly problems: string[]
  /** How often something was counted, by name or by name and label. */
  readonly counted: Map<string, number>
}

export async function follow(
  url: string,
  options: {
    spareRows?: number
    tickMs?: number
    verifyMs?: number
    maxStalenessMs?: number
    snapshotFile?: string
    schema?: string
    historyRule?: HistoryRule
    /** How the first attempt ends is what is looked at. */
    attempt?: true
  } = {},
): Promise<Followed> {
  const ledger = Ledger.create(0)
  const problems: string[] = []
  const counted = new Map<string, number>()
  const note = (_fields: object, message: string): void => {
    // A busy machine may be silent for as long as that at any time; the feed comes back by itself.
    if (!/no answer for \d+ ms/.test(message)) problems.push(message)
  }
  const feed = new Feed({
    connect: { url, schema: options.schema ?? 'dropgate' },
    tickMs: options.tickMs ?? 100,
    ledger,
    spareRows: options.spareRows ?? 0,
    snapshotFile: options.snapshotFile,
    verifyMs: options.verifyMs ?? 0,
    historyRule: options.historyRule,
    maxStalenessMs: options.maxStalenessMs ?? 5000,
    learnPointers: () => false,
    onRows: () => {},
    log: { info: () => {}, warn: note, error: note },
    metrics: {
      count: (name, label) => {
        const of = label === undefined ? name : `${name} ${label}`
        counted.set(of, (counted.get(of) ?? 0) + 1)
      },
      observe: () => {},
    },
  })
  const stop = writeAnchors(feed, url)
  const close = feed.close.bind(feed)
  feed.close = async () => {
    stop()
    await close()
  }
  await feed.open()
  if (options.attempt === undefined) {
    await until('the feed follows, and can go on after a lost session', () => {
      const { state, anchors } = feed.status()
      return state === 'following' && anchors > 0
    })
  }
  return { feed, ledger, problems, counted }
}

/** What the fleet does for the feed of a whole gate. */
function writeAnchors(feed: Feed, url: string): () => void {
  let client: pg.Client | undefined
  let stopped = false
  const write = async (): Promise<void> => {
    const nonce = feed.wantedAnchor()
    if (nonce === undefined) return
    if (client === undefined) {
      client = await connect({ url, kind: 'fleet' })
      client.on('end', () => {
        client = undefined
      })
    }
    await client.query('SELECT dropgate.anchor($1)', [nonce])
  }
  const again = (): void => {
    if (stopped) {
      if (client !== undefined) destroyClient(client)
    } else
      setTimeout(
        () =>
          write()
            .catch(() => {})
            .finally(again),
        50,
      ).unref()
  }
  again()
  return () => {
    stopped = true
  }
}

type Rows = Map<number, string>

function textOf({ keys, cutoffUs, exact, authTime, expiresAtS }: RevocationRow): string {
  const cutoff = cutoffUs === null ? 'block' : `${cutoffUs} ${exact} ${authTime}`
  return `${Buffer.from(keys).toString('hex')} ${cutoff} ${expiresAtS}`
}

/** A row as `live` and `changes()` give it: bigints as text. */
interface StoredRow {
  readonly id: string
  readonly keys: Buffer
  readonly cutoff_us: string | null
  readonly exact: boolean
  readonly auth_time: boolean
  readonly expires_s: string | null
}

function rowOf(row: StoredRow): RevocationRow {
  return {
    id: Number(row.id),
    keys: row.keys,
    cutoffUs: row.cutoff_us === null ? null : Number(row.cutoff_us),
    exact: row.exact,
    authTime: row.auth_time,
    expiresAtS: row.expires_s === null ? null : Number(row.expires_s),
  }
}

/** What is compared: a ledger, and how far its feed has read. */
export interface Compared {
  readonly feed: { status(): Pick<FeedStatus, 'cursor'> }
  readonly ledger: Pick<Ledger, 'entries'>
}

/** The ledger at its cursor, brought to one snapshot by `changes`, against the whole table in that same snapshot. */
export async function compare({ feed, ledger }: Compared, client: pg.Client): Promise<string[]> {
  // Between two sessions there is none.
  await until('a cursor', () => feed.status().cursor !== null)
  const { cursor } = feed.status()
  const held: Rows = new Map([...ledger.entries()].map((row) => [row.id, textOf(row)]))
  await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
  const changes = (await client.query("SELECT * FROM dropgate.changes($1, NULL, '{}')", [cursor]))
    .rows
  const table = (await client.query('SELECT * FROM dropgate.live')).rows
  await client.query('COMMIT')
  const ours = changes.filter(({ kind }) => kind === revocationKind)
  for (const { op, id } of ours) if (op === 't') held.delete(Number(id))
  for (const row of ours) if (row.op === 'r') held.set(Number(row.id), textOf(rowOf(row)))
  const differences: string[] = []
  const expected: Rows = new Map(table.map((row) => [Number(row.id), textOf(rowOf(row))]))
  for (const [id, text] of expected) if (held.get(id) !== text) differences.push(`missed ${id}`)
  for (const id of held.keys()) if (!expected.has(id)) differences.push(`phantom ${id}`)
  return differences
}

/**
 * One writer: transactions of random length, committed or rolled back at random, until it has inserted its share. As the
 * owner it also changes whom rows name, and puts others in their place under the same id.
 */
async function write(
  cluster: Cluster,
  random: () => number,
  { rows, owner }: { rows: number; owner: boolean },
): Promise<void> {
  const client = await cluster.client(owner ? 'migrate_url' : 'cli_url')
  const own: string[] = []
  const int = (n: number): number => Math.floor(random() * n)
  let inserted = 0
  while (inserted < rows) {
    let made: string[] = []
    let gone: string[] = []
    await client.query('BEGIN')
    for (let i = 1 + int(4); i > 0; i--) {
      const savepoint = int(4) === 0
      const before = { made: [...made], gone: [...gone] }
      if (savepoint) await client.query('SAVEPOINT s')
      const live = [...own, ...made].filter((id) => !gone.includes(id))
      const id = live[int(live.length)]
      const kind = int(10)
      if (kind < 7 || id === undefined) {
        const base = int(1000)
        const { rows: inserts } = await client.query(
          `INSERT INTO dropgate.revocations (subject, client_id, issued_before, expires_at)
           SELECT 's' || (i % 200), CASE WHEN i % 5 = 0 THEN 'c' || (i % 7) END,
             CASE WHEN i % 3 = 0 THEN now() END, CASE WHEN i % 4 = 0 THEN now() + interval '1 day' END
           FROM generate_series($1::int, $2::int) i RETURNING id`,
          [base, base + int(20)],
        )
        made.push(...inserts.map((row) => row.id as string))
      } else if (owner && kind === 7) {
        const part = `(SELECT * FROM (VALUES ('c1'), ('c2'), (NULL)) v(c) OFFSET ${int(3)} LIMIT 1)`
        const changes = [`client_id = ${part}`, `session_id = ${part}`, `subject = 's${int(200)}'`]
        await client.query(
          `UPDATE dropgate.revocations SET ${changes[int(3)]} WHERE id = ANY ($1)`,
          [live.slice(int(live.length)).slice(0, 10)],
        )
      } else if (owner && kind === 8) {
        await client.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
        await client.query(
          `INSERT INTO dropgate.revocations (id, subject, client_id) OVERRIDING SYSTEM VALUE
           VALUES (${id}, 's${int(200)}', 'c${int(7)}')`,
        )
      } else if (kind < 9) {
        await client.query('UPDATE dropgate.revocations SET issued_before = now() WHERE id = $1', [
          id,
        ])
      } else {
        await client.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
        gone.push(id)
      }
      if (savepoint && int(2) === 0) {
        await client.query('ROLLBACK TO s')
        made = before.made
        gone = before.gone
      }
      if (int(3) === 0) await pause(int(30))
    }
    if (int(8) === 0) {
      await client.query('ROLLBACK')
      continue
    }
    await client.query('COMMIT')
    inserted += made.length
    own.push(...made)
    for (const id of gone) own.splice(own.indexOf(id), 1)
  }
  await client.end()
}

/**
 * Writers that do what they can to break the invariant (commit out of order, hold transactions open, roll back, use
 * savepoints), and comparisons meanwhile. @param during Runs beside them; awaited before the last comparison.
 */
export async function storm(
  followed: Followed,
  cluster: Cluster,
  options: {
    seed: number
    rows: number
    writers?: number
    atLeast?: number
    during?: () => Promise<void>
  },
): Promise<{ comparisons: number; wrong: string[] }> {
  const { seed, rows, writers = 12, atLeast = 50, during } = options
  const gate = await cluster.client('url')
  let writing = writers
  const all = Array.from({ length: writers }, (_, i) =>
    write(cluster, seeded(seed + i), { rows: rows / writers, owner: i % 3 === 0 }).finally(
      () => writing--,
    ),
  )
  const beside = during?.()
  // Awaited below, after the comparisons; what went wrong before that is told there.
  for (const each of [...all, beside]) each?.catch(() => {})
  const wrong: string[] = []
  let comparisons = 0
  while (writing > 0 || comparisons < atLeast) {
    wrong.push(...(await compare(followed, gate)))
    comparisons++
    await pause(5)
  }
  await Promise.all([...all, beside])
  await settled(followed, gate)
  wrong.push(...(await compare(followed, gate)))
  await gate.end()
  return { comparisons: comparisons + 1, wrong }
}

/** Until the ledger has as many rows as the table. */
export async function settled({ ledger }: Followed, client: pg.Client, ms?: number): Promise<void> {
  const { rows } = await client.query('SELECT count(*)::int AS n FROM dropgate.live')
  await until('everything is in the ledger', () => ledger.rows === rows[0].n, ms)
}
