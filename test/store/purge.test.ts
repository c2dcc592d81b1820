/** Purging: what is dead goes, what could still bite stays, and no token ever lives again because of it. */
import t from 'tap'
import { subjectCaller } from '../../src/domain/caller.ts'
import { noPointers, type Principal } from '../../src/domain/principal.ts'
import { keysOf } from '../../src/domain/revocation.ts'
import { Ledger } from '../../src/revocation/ledger.ts'
import { findRevocation } from '../../src/revocation/match.ts'
import { startPostgres } from '../harness/postgres.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')
const cli = await cluster.client('cli_url')
const hour = 3600

/** The columns, and how many seconds ago the row was made. */
type Row = Record<string, unknown> & { readonly agoS?: number }

const secondsAgo = (s: number): Date => new Date(Date.now() - s * 1000)

async function insert({ agoS = 0, ...columns }: Row): Promise<string> {
  const names = Object.keys(columns)
  const { rows } = await owner.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()}) RETURNING id`,
    Object.values(columns),
  )
  if (agoS > 0) {
    await owner.query(`ALTER TABLE dropgate.revocations DISABLE TRIGGER a_prepare;
      UPDATE dropgate.revocations SET created_at = now() - interval '${agoS} s' WHERE id = ${rows[0].id};
      ALTER TABLE dropgate.revocations ENABLE ALWAYS TRIGGER a_prepare`)
  }
  return rows[0].id
}

async function purge(): Promise<{ revocations: number; tombs: number }> {
  const { rows } = await cli.query('SELECT * FROM dropgate.purge(1000)')
  return { revocations: Number(rows[0].revocations), tombs: Number(rows[0].tombs) }
}

const stored = async (): Promise<Record<string, unknown>[]> =>
  (await owner.query('SELECT * FROM dropgate.revocations ORDER BY id')).rows

t.beforeEach(async () => {
  await owner.query('TRUNCATE dropgate.revocations, dropgate.tomb; DELETE FROM dropgate.gates')
})

t.test('rows that no live token can match are purged', async (t) => {
  await insert({ subject: 'a', issued_before: secondsAgo(26 * hour) })
  await insert({ tenant: 't', issued_before: secondsAgo(900 * hour), network: '10.0.0.0/8' })
  await insert({ token_id: 'j', agoS: 26 * hour })
  await insert({ token_hash: Buffer.alloc(32), subject: 'a', agoS: 26 * hour })
  await insert({ subject: 'a', expires_at: secondsAgo(2 * hour) })
  t.same(await purge(), { revocations: 5, tombs: 0 })
  const [floor, ...rest] = await stored()
  t.same(rest, [])
  t.match(floor, { everyone: true, source: 'dropgate purge', created_by: 'cli' })
  t.same(await purge(), { revocations: 0, tombs: 0 })
  t.equal((await stored()).length, 1)
  const { rows } = await owner.query(
    "SELECT count(*)::int AS n FROM dropgate.audit WHERE action = 'DELETE' AND by = 'cli'",
  )
  t.equal(rows[0].n, 5, 'each with its image')
})

t.test('rows that a live token may match stay', async (t) => {
  const kept = [
    await insert({ subject: 'a', issued_before: secondsAgo(23 * hour) }),
    await insert({ subject: 'a', agoS: 9000 * hour }),
    await insert({ session_id: 's', agoS: 9000 * hour }),
    await insert({ network: '10.0.0.0/8', agoS: 9000 * hour }),
    await insert({ subject: 'a', issued_before: secondsAgo(900 * hour), compare: 'auth_time' }),
    await insert({ token_id: 'j', agoS: 23 * hour }),
    await insert({ subject: 'a', expires_at: secondsAgo(hour / 2) }),
    await insert({ subject: 'a', expires_at: secondsAgo(-hour), agoS: 9000 * hour }),
    await insert({ everyone: true, agoS: 9000 * hour }),
  ]
  t.same(await purge(), { revocations: 0, tombs: 0 })
  t.same(
    (await stored()).map(({ id }) => id),
    kept,
  )
})

t.test('the longest lifetime that a gate accepts counts', async (t) => {
  await insert({ subject: 'a', issued_before: secondsAgo(30 * hour) })
  const gate = await cluster.client('url')
  const beat = {
    ...{ host: 'h', pid: 1, version: '1', started_at: new Date(), ready: true, cursor: null },
    ...{ age_ms: null, rows: 0, allows_ms: 5000, matches: {}, peppers: [] },
    token_lifetime_ms: 48 * hour * 1000,
  }
  await gate.query("SELECT dropgate.beat('00000000-0000-0000-0000-000000000001', $1)", [beat])
  t.same(await purge(), { revocations: 0, tombs: 0 })
  await gate.query("SELECT dropgate.leave('00000000-0000-0000-0000-000000000001')")
  t.same(await purge(), { revocations: 1, tombs: 0 })
})

t.test(
  'the row that stands for what was purged comes back, and rises by the hour at most',
  async (t) => {
    await insert({ subject: 'a', issued_before: secondsAgo(50 * hour) })
    await purge()
    const [first] = await stored()
    await cli.query(
      "UPDATE dropgate.revocations SET issued_before = issued_before - interval '1 day', expires_at = now()",
    )
    await insert({ subject: 'a', issued_before: secondsAgo(50 * hour) })
    await purge()
    t.match((await stored()).at(-1), {
      everyone: true,
      issued_before: first!.issued_before,
      expires_at: null,
    })
    await cli.query('DELETE FROM dropgate.revocations')
    await insert({ subject: 'a', issued_before: secondsAgo(50 * hour) })
    await purge()
    t.match(await stored(), [{ everyone: true, issued_before: first!.issued_before }])
    const at = first!.issued_before as Date
    t.equal(at.getTime() % 3_600_000, 0)
    t.ok(at < secondsAgo(24 * hour))
  },
)

t.test('old tombstones go, and cursors from before them load anew', async (t) => {
  await insert({ subject: 'a' })
  await cli.query('DELETE FROM dropgate.revocations')
  const { rows } = await owner.query(
    "UPDATE dropgate.tomb SET at = now() - interval '8 days' RETURNING chg_xid",
  )
  await insert({ subject: 'b' })
  await cli.query('DELETE FROM dropgate.revocations')
  t.same(await purge(), { revocations: 0, tombs: 1 })
  const { rows: ident } = await owner.query('SELECT tomb_floor FROM dropgate.state()')
  t.equal(ident[0].tomb_floor, rows[0].chg_xid)
})

t.test('two gates that purge at once purge once', async (t) => {
  await insert({ subject: 'a', issued_before: secondsAgo(50 * hour) })
  const other = await cluster.client('url')
  await other.query('BEGIN')
  t.equal(
    (await other.query('SELECT revocations FROM dropgate.purge(10)')).rows[0].revocations,
    '1',
  )
  t.same(await purge(), { revocations: 0, tombs: 0 })
  await other.query('COMMIT')
})

t.test('no purge revives a token, not even one that a later gate would accept', async (t) => {
  const seed = seedOf()
  t.comment(`SEED=${seed}`)
  const random = seeded(seed)
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)]!
  const subjects = ['a', 'b', 'c']
  for (let i = 0; i < 120; i++) {
    const ageS = Math.floor(random() * 60 * hour)
    const row: Row = {
      subject: pick(subjects),
      ...(random() < 0.3 ? { token_id: `t${Math.floor(random() * 20)}` } : {}),
      ...(random() < 0.6 ? { issued_before: secondsAgo(ageS) } : {}),
      ...(random() < 0.2 ? { compare: 'auth_time', issued_before: secondsAgo(ageS) } : {}),
      // Those that end by themselves have ended by the clock, whether they are there or not.
      ...(random() < 0.2 ? { expires_at: secondsAgo(ageS - 10 * hour) } : {}),
      agoS: ageS + 1,
    }
    await insert(row)
  }
  const nowS = Math.floor(Date.now() / 1000)
  const tokens = Array.from({ length: 600 }, (_, i): Principal => {
    const identity = {
      issuer: 'i',
      subject: pick([...subjects, 'd']),
      sessionId: undefined,
      tokenId: `t${i % 20}`,
      clientId: undefined,
    }
    return {
      ...identity,
      ...{ tenant: undefined, scopes: [], claims: {}, json: '', clockSkewMs: 5000 },
      issuedAtS: nowS - Math.floor(random() * 60 * hour),
      authTimeS: nowS - Math.floor(random() * 90 * hour),
      expiresAtS: 0,
      boundTo: undefined,
      boundary: 'inclusive',
      cleanAtVersion: -1,
      caller: subjectCaller(identity.issuer, identity.subject),
      keys: keysOf(identity),
      pointers: noPointers,
      pointersSeen: 0,
    }
  })
  const denied = async (): Promise<boolean[]> => {
    const { rows } = await owner.query('SELECT * FROM dropgate.live')
    const ledger = Ledger.create(rows.length)
    for (const row of rows) {
      ledger.upsert({
        id: Number(row.id),
        keys: row.keys,
        cutoffUs: row.cutoff_us === null ? null : Number(row.cutoff_us),
        exact: row.exact,
        authTime: row.auth_time,
        expiresAtS: row.expires_s === null ? null : Number(row.expires_s),
      })
    }
    ledger.publish()
    const peer = { address: '192.0.2.1', certificate: undefined }
    return tokens.map(
      (token) =>
        findRevocation(ledger, { ...token, cleanAtVersion: -1 }, peer, Date.now()) !== undefined,
    )
  }
  const before = await denied()
  const { revocations } = await purge()
  const after = await denied()
  t.ok(revocations > 10, `${revocations} of 120 rows were dead`)
  let lively = 0
  for (const [i, token] of tokens.entries()) {
    const ageS = nowS - token.issuedAtS
    if (before[i]) t.ok(after[i], `still denied: issued ${ageS} s ago`)
    // No other token is hit: one of at most 24 hours that can still be alive.
    else if (ageS < 24 * hour) {
      t.notOk(after[i], `still allowed: issued ${ageS} s ago`)
      lively++
    }
  }
  t.ok(lively > 10)
})
