/** What each role must not be able to do, one by one. */
import t from 'tap'
import { listFleet } from '../../src/store/statements.ts'
import { startPostgres } from '../harness/postgres.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')
await owner.query('INSERT INTO dropgate.revocations (subject, issued_before) VALUES ($1, $2)', [
  'alice',
  '2026-01-01Z',
])
await owner.query("INSERT INTO dropgate.revocations (subject) VALUES ('blocked')")

const zero = "'00000000-0000-0000-0000-000000000000'"
const forge: readonly (readonly [what: string, statement: string])[] = [
  ['forge keys', "INSERT INTO dropgate.revocations (subject, keys) VALUES ('a', '\\x00')"],
  [
    'forge a key version',
    "INSERT INTO dropgate.revocations (subject, key_version) VALUES ('a', 1)",
  ],
  ['forge a transaction', "INSERT INTO dropgate.revocations (subject, chg_xid) VALUES ('a', '1')"],
  ['forge an order', "INSERT INTO dropgate.revocations (subject, chg_seq) VALUES ('a', 1)"],
  ['forge an author', "INSERT INTO dropgate.revocations (subject, created_by) VALUES ('a', 'b')"],
  ['forge a time', "INSERT INTO dropgate.revocations (subject, created_at) VALUES ('a', now())"],
  [
    'forge an id',
    "INSERT INTO dropgate.revocations (id, subject) OVERRIDING SYSTEM VALUE VALUES (9, 'a')",
  ],
  ['restamp', "UPDATE dropgate.revocations SET keys = '\\x00'"],
  ['move a row out of the feed', "UPDATE dropgate.revocations SET chg_xid = '1'"],
  ['name another subject', "UPDATE dropgate.revocations SET subject = 'b'"],
  ['truncate', 'TRUNCATE dropgate.revocations'],
  ['truncate the tombstones', 'TRUNCATE dropgate.tomb'],
  ['forge a tombstone', "INSERT INTO dropgate.tomb (row_id, keys) VALUES (1, '\\x00')"],
  ['drop tombstones', 'DELETE FROM dropgate.tomb'],
  ['read the feed and its secrets', 'SELECT * FROM dropgate.feed'],
  ['read the keys of notifications', 'SELECT * FROM dropgate.mac_keys'],
  ['make another such key', 'SELECT dropgate.new_mac_key()'],
  ['reset the feed', 'SELECT dropgate.reset_feed()'],
  ['change the feed', 'UPDATE dropgate.feed SET generation = gen_random_uuid()'],
  ['wake the gates in our name', "SELECT dropgate.wake('x')"],
  ['read keys', 'SELECT keys FROM dropgate.revocations'],
  ['read the audit', 'SELECT * FROM dropgate.audit'],
  ['write the audit', "INSERT INTO dropgate.audit (action, relation) VALUES ('DELETE', 'x')"],
  ['erase the audit', 'DELETE FROM dropgate.audit'],
  ['forge a claim pointer', "INSERT INTO dropgate.claim_pointers (pointer) VALUES ('/x')"],
  ['write the list of gates', 'DELETE FROM dropgate.gates'],
  ['forge a receipt', `INSERT INTO dropgate.receipts VALUES (1, ${zero}, now(), 0)`],
  ['drop waits', 'DELETE FROM dropgate.waits'],
  ['declare a row a canary', 'UPDATE dropgate.waits SET canary = true'],
  ['switch triggers off', 'ALTER TABLE dropgate.revocations DISABLE TRIGGER ALL'],
  ['play replication', "SET session_replication_role = 'replica'"],
  [
    'replace a function',
    'CREATE OR REPLACE FUNCTION dropgate.wake(message text) RETURNS void LANGUAGE sql AS $$$$',
  ],
  ['make tables here', 'CREATE TABLE dropgate.x (a int)'],
  ['change the migrations', 'DELETE FROM dropgate.migrations'],
  ['become the owner', 'SET ROLE dropgate_owner'],
]
const wide: readonly (readonly [what: string, statement: string])[] = [
  ['revoke everyone', 'INSERT INTO dropgate.revocations (everyone) VALUES (true)'],
  ['revoke an issuer', "INSERT INTO dropgate.revocations (issuer) VALUES ('i')"],
  ['revoke the network', "INSERT INTO dropgate.revocations (network) VALUES ('0.0.0.0/0')"],
]
const unrevoke: readonly (readonly [what: string, statement: string])[] = [
  ['un-revoke', 'DELETE FROM dropgate.revocations'],
  ['lift', 'UPDATE dropgate.revocations SET issued_before = now()'],
  ['end a row', 'UPDATE dropgate.revocations SET expires_at = now()'],
]
const insert = [['revoke', "INSERT INTO dropgate.revocations (subject) VALUES ('a')"]] as const
const report = [
  ['report as a gate', `SELECT dropgate.beat(${zero}, '{}')`],
  ['take a gate off the list', `SELECT dropgate.leave(${zero})`],
  ['ask for a gate who waits', `SELECT dropgate.wanted(${zero})`],
  ['confirm for a gate', `SELECT dropgate.confirm(${zero}, '{1}', '{9}'::xid8[], '{0}', '{0}')`],
  ['get the key of notifications', 'SELECT dropgate.mac_key()'],
  ['follow the feed', "SELECT * FROM dropgate.changes('1:1:', 5)"],
  ['read all of it', 'SELECT * FROM dropgate.live'],
] as const
const canary = [['write a canary', 'SELECT dropgate.canary(1000)']] as const
const purge = [['purge', 'SELECT dropgate.purge(1)']] as const
const look = [
  ['see what denies', 'SELECT * FROM dropgate.active'],
  ['see what was done', 'SELECT * FROM dropgate.history'],
] as const
const command = [
  ...look,
  ['ask for receipts', 'SELECT dropgate.expect_receipts(1)'],
  ['read rows', 'SELECT id, subject FROM dropgate.revocations'],
  ['see the fleet', 'SELECT * FROM dropgate.fleet'],
] as const

const roles = {
  revoker: {
    may: [...insert, ...command],
    mayNot: [...forge, ...wide, ...unrevoke, ...report, ...canary, ...purge],
  },
  lifter: {
    may: [...command, ...unrevoke, ...purge],
    mayNot: [...forge, ...wide, ...insert, ...report, ...canary],
  },
  breakglass: {
    may: [...insert, ...wide, ...command],
    mayNot: [...forge, ...unrevoke, ...report, ...canary, ...purge],
  },
  gate: {
    may: [
      ...purge,
      ...canary,
      ['follow the feed', "SELECT * FROM dropgate.changes('1:1:', 5)"] as const,
    ],
    mayNot: [
      ...forge,
      ...wide,
      ...insert,
      ...unrevoke,
      ...look,
      ['read rows', 'SELECT id FROM dropgate.revocations'] as const,
    ],
  },
} as const

/** Each statement in a transaction that is taken back. */
async function refusal(
  client: Awaited<ReturnType<typeof cluster.client>>,
  statement: string,
): Promise<string> {
  await client.query('BEGIN')
  try {
    await client.query(statement)
    return 'accepted'
  } catch (error) {
    return (error as { code: string }).code
  } finally {
    await client.query('ROLLBACK')
  }
}

for (const [role, { may, mayNot }] of Object.entries(roles)) {
  const login = `only_${role}`
  await owner.query(`CREATE ROLE ${login} LOGIN PASSWORD 'x'; GRANT dropgate_${role} TO ${login}`)
  const url = new URL(cluster.url)
  url.username = login
  url.password = 'x'
  const client = await cluster.client(url.href)
  for (const [what, statement] of may) {
    t.test(`the ${role} may ${what}`, async (t) => {
      t.equal(await refusal(client, statement), 'accepted')
    })
  }
  for (const [what, statement] of mayNot) {
    t.test(`the ${role} may not ${what}`, async (t) => {
      t.equal(await refusal(client, statement), '42501')
    })
  }
}

t.test('receipts that are asked for before there is a row confirm no later row', async (t) => {
  const gate = await cluster.client('url')
  const revoker = await cluster.client('cli_url')
  const wanted = async (cursor: string): Promise<unknown[]> => {
    const { rows } = await gate.query(`SELECT * FROM dropgate.wanted(${zero}, $1)`, [cursor])
    return rows.map(({ wanted: id }) => id)
  }
  const snapshot = async (): Promise<string> =>
    (await owner.query('SELECT pg_current_snapshot()::text AS now')).rows[0].now
  const { rows: last } = await owner.query('SELECT max(id) AS id FROM dropgate.revocations')
  for (let ahead = 1; ahead <= 20; ahead++)
    await revoker.query('SELECT dropgate.expect_receipts($1)', [Number(last[0].id) + ahead])
  const before = await snapshot()
  t.same(await wanted(before), [])

  await revoker.query('BEGIN')
  const { rows } = await revoker.query(
    "INSERT INTO dropgate.revocations (subject) VALUES ('late') RETURNING id",
  )
  await revoker.query('SELECT dropgate.expect_receipts($1)', [rows[0].id])
  await revoker.query('COMMIT')
  t.ok(Number(rows[0].id) - Number(last[0].id) <= 20, 'its id was foreseen')
  t.same(await wanted(before), [], 'a gate that has not seen it gives no receipt')
  t.same(await wanted(await snapshot()), [rows[0].id])
  const { rows: now } = await gate.query(`SELECT row_id, keys FROM dropgate.wanted(${zero})`)
  t.same(
    now.map(({ row_id }) => row_id),
    [rows[0].id],
  )
})

t.test(
  'all that a gate can write is one canary a second, and which one it does not choose',
  async (t) => {
    const gate = await cluster.client('url')
    const rows = async (): Promise<{ id: string; columns: string[] }[]> => {
      const { rows } = await owner.query(
        `SELECT id, ARRAY(SELECT key FROM jsonb_each(jsonb_strip_nulls(to_jsonb(r))) ORDER BY key) AS columns
       FROM dropgate.revocations r ORDER BY id`,
      )
      return rows
    }
    const before = await rows()
    const written = await gate.query("SELECT row_id FROM dropgate.canary('-9000000000000000000')")
    const { row_id } = written.rows[0]
    const again = await gate.query('SELECT row_id, due_ms FROM dropgate.canary(0)')
    t.equal(again.rows[0].row_id, null, 'none within a second')
    t.ok(again.rows[0].due_ms > 0 && again.rows[0].due_ms <= 1000)
    const after = await rows()
    t.same(after.slice(0, -1), before, 'every other row is as it was')
    const { id, columns } = after.at(-1)!
    t.equal(id, row_id)
    const kept =
      'chg_seq chg_xid compare created_at created_by everyone id issuer key_version keys reason source'
    t.equal(columns.join(' '), kept, 'it names an issuer and no other predicate')
  },
)

t.test('the statements of gates of the last preview go on working', async (t) => {
  const gate = await cluster.client('url')
  const beat = {
    ...{ host: 'h', pid: 1, version: '0', started_at: '2026-01-01Z', ready: true, cursor: '1:1:' },
    ...{ age_ms: 1, rows: 1, allows_ms: 5000, matches: {}, peppers: [], token_lifetime_ms: 1 },
  }
  const id = '11111111-1111-1111-1111-111111111111'
  const beats = await gate.query('SELECT gates, unmatched FROM dropgate.beat($1, $2)', [
    id,
    JSON.stringify(beat),
  ])
  t.equal(beats.rows[0].gates, 1)
  t.match(await listFleet(gate, 'dropgate').catch(String), /permission denied/)
  t.match(await listFleet(owner, 'dropgate'), [{ id, policies: {}, version: '0' }])
  const { rows: at } = await owner.query('SELECT pg_current_snapshot()::text AS now')
  const statement = 'SELECT * FROM dropgate.wanted($1, $2) AS row_id'
  const { rows } = await gate.query(statement, [id, at[0].now])
  t.equal(rows.length, 1)
  await gate.query('SELECT dropgate.confirm($1, $2, $3, $4)', [id, [rows[0].row_id], [1.5], [2]])
  t.same((await gate.query(statement, [id, at[0].now])).rows, [], 'it is confirmed')
  await gate.query('SELECT dropgate.leave($1)', [id])
})

t.test('PUBLIC may do nothing', async (t) => {
  await owner.query("CREATE ROLE stranger LOGIN PASSWORD 'x'")
  const url = new URL(cluster.url)
  url.username = 'stranger'
  url.password = 'x'
  const client = await cluster.client(url.href)
  for (const [what, statement] of [
    ...forge,
    ...wide,
    ...insert,
    ...unrevoke,
    ...report,
    ...canary,
    ...purge,
    ...command,
  ]) {
    t.equal(await refusal(client, statement), '42501', what)
  }
  const { rows } = await owner.query(`
    SELECT p.proname FROM pg_proc p
    WHERE p.pronamespace = 'dropgate'::regnamespace AND has_function_privilege('stranger', p.oid, 'EXECUTE')`)
  t.same(rows, [], 'no function either')
  const { rows: open } = await owner.query(`
    SELECT p.proname FROM pg_proc p
    WHERE p.pronamespace = 'dropgate'::regnamespace AND p.prosecdef
      AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=dropgate, pg_temp')`)
  t.same(open, [], 'whatever runs as the owner has a search path of its own')
})

t.test('a login that can only connect holds up no gate', async (t) => {
  await owner.query("CREATE ROLE idler LOGIN PASSWORD 'x'")
  const url = new URL(cluster.url)
  url.username = 'idler'
  url.password = 'x'
  const idler = await cluster.client(url.href)
  const gate = await cluster.client('url')
  await idler.query(
    "SELECT pg_advisory_lock(c.oid::bigint) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'dropgate'",
  )
  await owner.query('TRUNCATE dropgate.anchors; DELETE FROM dropgate.waits WHERE canary')
  await owner.query(
    "INSERT INTO dropgate.revocations (subject, expires_at) VALUES ('long over', now() - interval '2 h')",
  )
  await gate.query('SELECT dropgate.anchor(gen_random_uuid())')
  const { rows: anchors } = await owner.query('SELECT count(*)::int AS n FROM dropgate.anchors')
  t.equal(anchors[0].n, 1)
  const { rows: canaries } = await gate.query('SELECT row_id FROM dropgate.canary(1000)')
  t.ok(Number(canaries[0].row_id) >= 2 ** 52, 'an id that no row of a user gets')
  const { rows: purged } = await gate.query('SELECT revocations::int AS n FROM dropgate.purge(100)')
  t.ok(purged[0].n >= 1)
  await idler.end()
})
