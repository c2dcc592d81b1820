/** `active` and `history`: what denies now, and what was done to the table, in words; never more than a role may read. */
import type pg from 'pg'
import t, { type Test } from 'tap'
import { liftRevocation } from '../../src/store/statements.ts'
import { startPostgres } from '../harness/postgres.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')
const cli = await cluster.client('cli_url')

t.beforeEach(async () => {
  await owner.query(`TRUNCATE dropgate.revocations RESTART IDENTITY;
    ALTER TABLE dropgate.audit DISABLE TRIGGER a_refuse_change; TRUNCATE dropgate.audit;
    ALTER TABLE dropgate.audit ENABLE ALWAYS TRIGGER a_refuse_change`)
})

async function insert(columns: Record<string, unknown>, client: pg.Client = owner) {
  const names = Object.keys(columns)
  const { rows } = await client.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()}) RETURNING id`,
    Object.values(columns),
  )
  return rows[0].id as string
}

/** Canaries are a second apart at least: the last one is made older. */
async function writeCanary(t: Test): Promise<void> {
  await owner.query("UPDATE dropgate.waits SET at = at - interval '1 min'")
  const { rows } = await owner.query('SELECT row_id FROM dropgate.canary(1000)')
  const { rowCount } = await owner.query('SELECT FROM dropgate.revocations WHERE id = $1', [
    rows[0].row_id,
  ])
  t.equal(rowCount, 1, 'a canary is in the table')
}

const select = async (query: string): Promise<Record<string, unknown>[]> =>
  (await cli.query(query)).rows

const thumbprint = `${'a'.repeat(42)}A`
const hash = Buffer.alloc(32, 0xab)
/** A row, how it is said, and its predicates where they are not the row itself. */
const said: readonly (readonly [Record<string, unknown>, string, object?])[] = [
  [{ everyone: true }, 'everyone'],
  [{ issuer: 'https://idp.example/a' }, 'everyone at issuer https://idp.example/a'],
  [{ subject: 'alice' }, 'subject alice'],
  [{ subject: 'alice', everyone: true }, 'subject alice'],
  [
    { subject: 'alice and network 0.0.0.0/0', issuer: 'x y' },
    'subject "alice and network 0.0.0.0/0" at issuer "x y"',
  ],
  [{ subject: '"quoted"' }, 'subject "\\"quoted\\""'],
  [{ subject: 'line\nbreak' }, 'subject "line\\nbreak"'],
  [{ subject: '\\x00' }, 'subject \\x00'],
  [{ subject: 'älice' }, 'subject "älice"'],
  [{ session_id: 's', except_session_id: 'e' }, 'session s, except session e'],
  [{ everyone: true, except_session_id: 'e' }, 'everyone, except session e'],
  [{ token_id: 'j', client_id: 'c' }, 'token j and client c'],
  [
    { token_hash: hash },
    `token hash ${hash.toString('hex')}`,
    { token_hash: hash.toString('hex') },
  ],
  [{ tenant: 't', group_value: 'g', device_id: 'd' }, 'group g and tenant t and device d'],
  [{ key_thumbprint: thumbprint }, `signing key ${thumbprint}`],
  [{ proof_key: thumbprint }, `proof key ${thumbprint}`],
  [{ client_cert: thumbprint }, `client certificate ${thumbprint}`],
  [{ network: '10.0.0.0/8' }, 'network 10.0.0.0/8'],
  [
    { network: '::ffff:10.0.0.0/104', client_cert: thumbprint, issuer: 'i' },
    `everyone at issuer i and network 10.0.0.0/8 and client certificate ${thumbprint}`,
    { network: '10.0.0.0/8', client_cert: thumbprint, issuer: 'i' },
  ],
  [
    { subject: 'alice', issuer: 'i', network: '10.1.0.0/16' },
    'subject alice at issuer i and network 10.1.0.0/16',
  ],
  [
    { claims: { '/role': 'admin', '/level': 3, '/a b': true }, subject: 's' },
    'subject s and claim "/a b" = true and claim /level = 3 and claim /role = "admin"',
  ],
]

t.test('every predicate is said in words, and for programs', async (t) => {
  for (const [columns] of said) await insert(columns)
  const active = await select('SELECT * FROM dropgate.active ORDER BY id')
  const history = await select('SELECT * FROM dropgate.history ORDER BY row_id')
  const { rows: predicates } = await owner.query(
    `SELECT attname AS name FROM pg_attribute WHERE attrelid = 'dropgate.revocations'::regclass AND attnum > 0`,
  )
  const covered = new Set(said.flatMap(([columns]) => Object.keys(columns)))
  const others =
    /^(id|issued_before|compare|expires_at|event_time|reason|source|source_event_id|created_\w+|key\w*|chg_\w+)$/
  for (const { name } of predicates) {
    if (!covered.has(name)) t.match(name, name === 'key_thumbprint' ? /^$/ : others, 'no predicate')
  }
  for (const [i, [columns, words, named = columns]] of said.entries()) {
    t.match(active[i], { id: String(i + 1), kind: 'block', target: words, unmatched: false }, words)
    t.same(active[i]!.predicates, named, words)
    t.match(history[i], { action: 'inserted a block', target: words, by: 'migrator' }, words)
    t.same(history[i]!.predicates, named, words)
  }
})

t.test('active has what denies now', async (t) => {
  const block = await insert({ subject: 'a', reason: 'left' }, cli)
  const cutoff = await insert({ subject: 'b', issued_before: '2026-01-01Z' }, cli)
  const signIn = await insert({ subject: 'b', issued_before: '2026-01-01Z', compare: 'auth_time' })
  const later = await insert({ subject: 'c', expires_at: new Date(Date.now() + 3600_000) })
  await insert({ subject: 'c', expires_at: new Date(Date.now() - 1000) })
  const { rows } = await owner.query(
    "INSERT INTO dropgate.revocations (subject, issued_before) VALUES ('d', now() + interval '4 s') RETURNING id",
  )
  await writeCanary(t)
  await liftRevocation(cli, 'dropgate', await insert({ subject: 'e' }), true)
  const active = await select('SELECT * FROM dropgate.active ORDER BY id')
  t.same(
    active.map(({ id }) => id),
    [block, cutoff, signIn, later, rows[0].id],
  )
  t.match(active[0], { kind: 'block', issued_before: null, until: null, reason: 'left' })
  t.match(active[0], { created_by: 'cli', since: Date, source: null })
  const at = new Date('2026-01-01Z')
  t.match(active[1], { kind: 'cutoff', issued_before: at, compare: 'iat' })
  t.match(active[2], { kind: 'cutoff', issued_before: at, compare: 'auth_time' })
  t.match(active[3], { kind: 'block', until: Date })
})

t.test('active marks what no gate can match', async (t) => {
  const gate = await cluster.client('url')
  const id = '11111111-1111-1111-1111-111111111111'
  const beat = {
    ...{ host: 'h', pid: 1, version: '0', started_at: new Date(), ready: true, cursor: null },
    ...{ age_ms: 1, rows: 0, allows_ms: 5000, matches: { i: [] }, peppers: [] },
    ...{ token_lifetime_ms: 1, policies: {} },
  }
  await gate.query('SELECT dropgate.beat($1, $2)', [id, JSON.stringify(beat)])
  await insert({ subject: 'a', issuer: 'i' })
  await insert({ subject: 'a', issuer: 'another' })
  await insert({ tenant: 't' })
  const active = await select('SELECT unmatched FROM dropgate.active ORDER BY id')
  t.same(
    active.map(({ unmatched }) => unmatched),
    [false, true, true],
  )
  await gate.query('SELECT dropgate.leave($1)', [id])
})

const done = async (row: string): Promise<unknown[]> =>
  (
    await select(
      `SELECT by, action, kind, target, reason, until FROM dropgate.history WHERE row_id = ${row} ORDER BY at`,
    )
  ).map((event) => Object.values(event))

t.test('history has what was done, by whom, in time', async (t) => {
  const block = await insert({ subject: 'a', reason: 'left' }, cli)
  await liftRevocation(cli, 'dropgate', block, false)
  await liftRevocation(owner, 'dropgate', block, true)
  t.same(await done(block), [
    ['cli', 'inserted a block', 'block', 'subject a', 'left', null],
    ['cli', 'lifted', 'cutoff', 'subject a', 'left', null],
    ['migrator', 'deleted', 'cutoff', 'subject a', 'left', null],
  ])

  const cutoff = await insert({ subject: 'b', issued_before: '2026-01-01Z' }, cli)
  const end = new Date(Date.now() + 60_000)
  for (const [set, value] of [
    ['issued_before', '2026-01-02Z'],
    ['issued_before', null],
    ['expires_at', end],
    ['reason', 'late'],
  ] as const) {
    await cli.query(`UPDATE dropgate.revocations SET ${set} = $1 WHERE id = $2`, [value, cutoff])
  }
  await cli.query(
    "UPDATE dropgate.revocations SET issued_before = '2026-01-01Z', expires_at = NULL, reason = NULL WHERE id = $1",
    [cutoff],
  )
  await cli.query('UPDATE dropgate.revocations SET reason = reason WHERE id = $1', [cutoff])
  t.same(await done(cutoff), [
    ['cli', 'inserted a cutoff', 'cutoff', 'subject b', null, null],
    ['cli', 'moved the cutoff', 'cutoff', 'subject b', null, null],
    ['cli', 'made a block', 'block', 'subject b', null, null],
    ['cli', 'changed the end', 'block', 'subject b', null, end],
    ['cli', 'changed the reason', 'block', 'subject b', 'late', end],
    ['cli', 'lifted, changed the end, changed the reason', 'cutoff', 'subject b', null, null],
    ['cli', 'changed nothing', 'cutoff', 'subject b', null, null],
  ])
  const times = await select(
    `SELECT at, issued_before FROM dropgate.history WHERE row_id = ${cutoff} ORDER BY at`,
  )
  t.same(
    times.map(({ issued_before: at }) => (at as Date | null)?.toISOString().slice(0, 10)),
    ['2026-01-01', '2026-01-02', undefined, undefined, undefined, '2026-01-01', '2026-01-01'],
    'each as it was after it',
  )

  const expired = await insert({ subject: 'c', expires_at: new Date(Date.now() - 1000) })
  t.match(await done(expired), [['migrator', 'inserted a block', 'block', 'subject c', null, Date]])
})

t.test('history shows no canaries, and outlives TRUNCATE', async (t) => {
  await writeCanary(t)
  t.same(await select('SELECT * FROM dropgate.history'), [])
  const first = await insert({ subject: 'first' }, cli)
  await liftRevocation(cli, 'dropgate', first, false)
  await owner.query('TRUNCATE dropgate.revocations RESTART IDENTITY')
  const second = await insert({ subject: 'second' }, cli)
  t.equal(second, first, 'the same id again')
  await liftRevocation(cli, 'dropgate', second, false)
  t.same(await done(first), [
    ['cli', 'inserted a block', 'block', 'subject first', null, null],
    // What the update made of the row is in no copy.
    ['cli', 'changed', 'block', 'subject first', null, null],
    ['cli', 'inserted a block', 'block', 'subject second', null, null],
    ['cli', 'lifted', 'cutoff', 'subject second', null, null],
  ])
  t.match(await select("SELECT * FROM dropgate.history WHERE action = 'emptied the table'"), [
    { by: 'migrator', row_id: null, target: null, kind: null, predicates: null },
  ])
  t.equal((await select('SELECT * FROM dropgate.history')).length, 5)
})
