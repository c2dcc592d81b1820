/** What PostgreSQL itself guards: keys, roles, checks; nothing that is stored can make the feed's reading fail. */
import t from 'tap'
import { keyOf } from '../../src/domain/revocation.ts'
import { migrate } from '../../src/store/migrate.ts'
import { startPostgres } from '../harness/postgres.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const revoker = await cluster.client('cli_url')
const owner = await cluster.client('migrate_url')
const gate = await cluster.client('url')

async function refusal(run: Promise<unknown>): Promise<string> {
  try {
    await run
    return 'accepted'
  } catch (error) {
    return (error as { code: string }).code
  }
}

const insert = (columns: string, ...values: unknown[]): Promise<unknown> =>
  revoker.query(
    `INSERT INTO dropgate.revocations (${columns}) VALUES (${values.map((_, i) => `$${i + 1}`).join()})`,
    values,
  )

t.test('keys are the ones a token is looked up by', async (t) => {
  const values = [
    'alice',
    'älice ☃',
    '\\x00',
    "o'brien",
    'a b',
    'a'.repeat(1024),
    '\u{1f600}',
    '%',
    '\\',
  ]
  for (const value of values) {
    for (const issuer of [undefined, 'https://idp.example/']) {
      await owner.query('TRUNCATE dropgate.revocations')
      await owner.query(
        'INSERT INTO dropgate.revocations (issuer, subject, session_id, token_id, client_id) VALUES ($1, $2, $2, $2, $2)',
        [issuer, value],
      )
      const { rows } = await owner.query('SELECT keys FROM dropgate.revocations')
      const expected = (['token_id', 'session_id', 'subject', 'client_id'] as const).map(
        (kind, i) => Buffer.concat([Buffer.of(i + 1), keyOf(kind, issuer ?? '', value)]),
      )
      t.same(
        rows[0].keys,
        Buffer.concat(expected),
        `${JSON.stringify(value.slice(0, 10))} ${issuer}`,
      )
    }
  }
  await owner.query("INSERT INTO dropgate.revocations (issuer) VALUES ('https://idp.example')")
  await owner.query('INSERT INTO dropgate.revocations (everyone) VALUES (true)')
  const { rows } = await owner.query(
    'SELECT keys FROM dropgate.revocations ORDER BY id DESC LIMIT 2',
  )
  t.same(rows[0].keys, Buffer.concat([Buffer.of(6), keyOf('everyone', '', '')]))
  t.same(rows[1].keys, Buffer.concat([Buffer.of(5), keyOf('issuer', 'https://idp.example', '')]))
})

t.test('the revoker may revoke and nothing else', async (t) => {
  t.equal(await refusal(insert('subject, reason', 'alice', 'left')), 'accepted')
  for (const [statement, code] of [
    ["INSERT INTO dropgate.revocations (subject, keys) VALUES ('a', '\\x00')", '42501'],
    ["INSERT INTO dropgate.revocations (subject, created_by) VALUES ('a', 'root')", '42501'],
    ["INSERT INTO dropgate.revocations (subject, chg_xid) VALUES ('a', '1')", '42501'],
    ["UPDATE dropgate.revocations SET subject = 'b'", '42501'],
    ['TRUNCATE dropgate.revocations', '42501'],
    ['SELECT keys FROM dropgate.revocations', '42501'],
    ['SELECT * FROM dropgate.tomb', '42501'],
    ['SELECT * FROM dropgate.tombs', '42501'],
    ['SELECT * FROM dropgate.digest', '42501'],
    ['SELECT key FROM dropgate.mac_keys', '42501'],
    ['SELECT * FROM dropgate.mac_key()', '42501'],
    ['SELECT dropgate.new_mac_key()', '42501'],
    ['SELECT dropgate.reset_feed()', '42501'],
    ["SELECT * FROM dropgate.changes('1:1:', 5)", '42501'],
    ['SELECT channel FROM dropgate.feed', '42501'],
    ["SELECT dropgate.wake('x')", '42501'],
    ['INSERT INTO dropgate.revocations (everyone) VALUES (true)', '42501'],
    ["INSERT INTO dropgate.revocations (issuer) VALUES ('https://idp')", '42501'],
    ['ALTER TABLE dropgate.revocations DISABLE TRIGGER ALL', '42501'],
    ['CREATE TABLE dropgate.x (a int)', '42501'],
  ] as const) {
    t.equal(await refusal(revoker.query(statement)), code, statement)
  }
  await owner.query("CREATE ROLE plain LOGIN PASSWORD 'plain'; GRANT dropgate_revoker TO plain")
  await owner.query(
    "CREATE ROLE breaker LOGIN PASSWORD 'breaker'; GRANT dropgate_breakglass TO breaker",
  )
  await owner.query('SET ROLE plain')
  t.equal(
    await refusal(owner.query('DELETE FROM dropgate.revocations')),
    '42501',
    'lifting needs the lifter',
  )
  await owner.query('SET ROLE breaker')
  t.equal(
    await refusal(owner.query('INSERT INTO dropgate.revocations (everyone) VALUES (true)')),
    'accepted',
  )
  await owner.query('RESET ROLE')
})

t.test('the gate may read and nothing else', async (t) => {
  t.equal(await refusal(gate.query('SELECT * FROM dropgate.live')), 'accepted')
  t.equal(
    await refusal(gate.query("INSERT INTO dropgate.revocations (subject) VALUES ('a')")),
    '42501',
  )
  for (const statement of [
    'SELECT * FROM dropgate.revocations',
    'SELECT key FROM dropgate.mac_keys',
    'SELECT dropgate.new_mac_key()',
    'SELECT dropgate.reset_feed()',
    "SELECT dropgate.wake('x')",
    'UPDATE dropgate.feed SET generation = gen_random_uuid()',
  ]) {
    t.equal(await refusal(gate.query(statement)), '42501', statement)
  }
})

t.test('a revocation is on disk before it is announced, whatever the writer prefers', async (t) => {
  await revoker.query('SET synchronous_commit = off')
  await revoker.query('BEGIN')
  await insert('subject', 'durable')
  const { rows } = await revoker.query('SHOW synchronous_commit')
  t.equal(rows[0].synchronous_commit, 'on')
  await revoker.query('COMMIT')
  await revoker.query('RESET synchronous_commit')
})

t.test('a transaction notifies a few times at most, however many statements it has', async (t) => {
  const { rows } = await owner.query('SELECT channel FROM dropgate.feed')
  const heard: string[] = []
  const listener = await cluster.client('url')
  listener.on('notification', ({ payload }) => heard.push(payload ?? ''))
  await listener.query(`LISTEN ${rows[0].channel}`)
  const told = async (statement: string): Promise<string[]> => {
    heard.length = 0
    await revoker.query('BEGIN')
    await revoker.query(statement)
    await revoker.query('COMMIT')
    await listener.query('SELECT 1')
    return heard.map((message) => `${message[0]} ${message.length < 8000}`)
  }
  t.same(
    await told("INSERT INTO dropgate.revocations (subject) SELECT 'x' WHERE false"),
    [],
    'nothing for nothing',
  )
  t.same(await told("INSERT INTO dropgate.revocations (subject) VALUES ('x')"), ['p true'])
  t.same(
    await told("INSERT INTO dropgate.revocations (subject, client_id) VALUES ('x', 'y')"),
    ['w true'],
    'several predicates',
  )
  const many = (n: number): string =>
    `INSERT INTO dropgate.revocations (subject, issued_before, expires_at)
     SELECT 'x' || i, now(), now() + interval '1 day' FROM generate_series(1, ${n}) i`
  t.same(await told(many(128)), ['p true'])
  t.same(await told(many(129)), ['w true'])
  heard.length = 0
  await revoker.query('BEGIN')
  for (let i = 0; i < 100; i++) await insert('subject', `each-${i}`)
  await revoker.query('COMMIT')
  await listener.query('SELECT 1')
  t.equal(heard.length, 17)
})

t.test('rows that mean nothing or cannot be matched are refused', async (t) => {
  for (const [columns, values] of [
    ['reason', ['nobody']],
    ['subject', ['']],
    ['subject', ['a'.repeat(1025)]],
    ['subject, issued_before', ['a', 'infinity']],
    ['subject, issued_before', ['a', '1999-12-31']],
    ['subject, expires_at', ['a', '2200-01-02']],
    ['subject, event_time', ['a', '-infinity']],
    ['subject, tenant', ['a', '']],
    ['except_session_id', ['s']],
    ['token_hash', [Buffer.alloc(31)]],
    ['key_thumbprint', ['a'.repeat(42)]],
    ['proof_key', [`${'a'.repeat(42)}b`]],
    ['client_cert', [`${'a'.repeat(42)}=`]],
    ['claims', ['[]']],
    ['claims', ['{"role": "x"}']],
    ['claims', ['{"/a~2": "x"}']],
    ['claims', ['{"/a": null}']],
    ['claims', ['{"/a": 1.5}']],
    ['claims', ['{"/a": 9007199254740992}']],
    ['claims', ['{"/a": ["x"]}']],
    ['claims', [JSON.stringify({ '/a': 'x'.repeat(1025) })]],
    [
      'claims',
      [JSON.stringify(Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`/${i}`, 1])))],
    ],
    ['subject, issued_before', ['a', new Date(Date.now() + 60_000)]],
    ['subject, claims', ['a', '{}']],
    ['subject, compare', ['a', 'auth_time']],
    ['subject, reason', ['a', 'r'.repeat(4097)]],
  ] as const) {
    t.equal(
      await refusal(insert(columns, ...values)),
      '23514',
      `${columns} ${String(values.at(-1)).slice(0, 20)}`,
    )
  }
})

t.test('no row that can be stored makes the feed fail', async (t) => {
  const extremes = ['2000-01-01Z', '2199-12-31 23:59:59.999999Z']
  for (const at of extremes) {
    await insert('subject, issued_before, expires_at, event_time', 'x', extremes[0], at, at)
  }
  await insert(
    'subject, network, claims',
    'x',
    '::/0',
    JSON.stringify({ '/': '', [`/${'~0'.repeat(127)}`]: -9007199254740991, '/\u{10ffff}': false }),
  )
  await insert(
    'subject, session_id, token_id, client_id, issuer',
    ...Array(5).fill('\u{10ffff}'.repeat(256)),
  )
  const { rows } = await gate.query("SELECT * FROM dropgate.changes('1:1:', 10001)")
  t.ok(rows.length > 3)
  t.equal(await refusal(gate.query('SELECT * FROM dropgate.live')), 'accepted')
  const { rows: live } = await gate.query(
    'SELECT cutoff_us, expires_s FROM dropgate.live WHERE cutoff_us IS NOT NULL ORDER BY id DESC LIMIT 1',
  )
  t.same(live[0], { cutoff_us: '946684800000000', expires_s: '7258118400' })
})

t.test('migrating twice or at once changes nothing; another prefix is apart', async (t) => {
  const options = { schema: 'dropgate', rolePrefix: 'dropgate_' }
  const again = await Promise.all([1, 2, 3].map(() => migrate(cluster.migrate_url, options)))
  for (const { applied } of again) t.same(applied, [])
  const other = await migrate(cluster.migrate_url, { schema: 'other', rolePrefix: 'other_' })
  t.same(other.applied, ['0001_baseline'])
  await t.rejects(migrate(cluster.migrate_url, { schema: 'x"; DROP', rolePrefix: 'a' }), {
    code: 'ERR_CONFIG_VALUE',
  })
  await owner.query("INSERT INTO dropgate.migrations (name, digest) VALUES ('9999_later.sql', '')")
  await t.rejects(migrate(cluster.migrate_url, options), { code: 'ERR_DATABASE_SCHEMA' })
})

t.test('an owner without superuser rights can migrate', async (t) => {
  await owner.query("CREATE ROLE modest LOGIN PASSWORD 'modest' CREATEROLE")
  await owner.query('CREATE DATABASE modest OWNER modest')
  const url = new URL(cluster.migrate_url)
  url.username = 'modest'
  url.password = 'modest'
  url.pathname = '/modest'
  const { applied } = await migrate(url.href, { schema: 'dropgate', rolePrefix: 'modest_' })
  t.same(applied, ['0001_baseline'])
})
