/**
 * A database that a preview of 0.1.0 made becomes what a fresh one is, with all that is in it; where that cannot be known
 * to work it is refused with steps that keep the rows, and nothing is touched.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type pg from 'pg'
import t from 'tap'
import { migrate } from '../../src/store/migrate.ts'
import { catalog } from '../harness/catalog.ts'
import { compare, follow } from '../harness/follower.ts'
import { blocksOf } from '../harness/pages.ts'
import { startPostgres } from '../harness/postgres.ts'
import { migratePreview } from '../harness/preview.ts'
import { command, earlierReleases } from '../harness/releases.ts'
import { until } from '../harness/wait.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const fresh = await cluster.client('migrate_url')
const options = { schema: 'dropgate', rolePrefix: 'dropgate_' }

let made = 0
/** A database beside the fresh one, so that all names in it are the same. */
async function preview(): Promise<{
  urlOf: (login: 'url' | 'migrate_url') => string
  owner: pg.Client
}> {
  const name = `preview_${++made}`
  await fresh.query(`CREATE DATABASE ${name}`)
  const urlOf = (login: 'url' | 'migrate_url'): string => {
    const url = new URL(cluster[login])
    url.pathname = `/${name}`
    return url.href
  }
  const owner = await cluster.client(urlOf('migrate_url'))
  await migratePreview(owner, options)
  return { urlOf, owner }
}

const tables = [
  'revocations',
  'tomb',
  'feed',
  'mac_keys',
  'claim_pointers',
  'audit',
  'gates',
  'waits',
  'receipts',
] as const

/** Columns that the upgrade adds, with what they hold in the rows that are there. */
const added: Readonly<Record<string, object>> = {
  tomb: { kind: 'r' },
  waits: { canary: false },
  gates: { policies: {} },
}

async function contents(client: pg.Client): Promise<Record<string, unknown[]>> {
  const found: Record<string, unknown[]> = {}
  for (const table of tables) {
    const { rows } = await client.query(
      `SELECT to_jsonb(x) AS row FROM dropgate.${table} x ORDER BY to_jsonb(x)::text`,
    )
    found[table] = rows.map(({ row }) => row)
  }
  return found
}

/** Something in every table, of every kind of predicate. */
async function fill(owner: pg.Client): Promise<void> {
  const hash = Buffer.alloc(32, 7)
  const thumbprint = 'A'.repeat(43)
  const gate = '11111111-1111-1111-1111-111111111111'
  await owner.query(
    `INSERT INTO dropgate.revocations (issuer, subject, session_id, token_id, client_id, tenant, group_value, device_id,
       token_hash, key_thumbprint, client_cert, proof_key, network, claims, except_session_id, issued_before, compare,
       expires_at, event_time, reason, source, source_event_id)
     VALUES ('i', 's', 'x', 'j', 'c', 't', 'g', 'd', $1, $2, $2, $2, '::ffff:10.0.0.0/104', '{"/a": 1, "/b": "x"}', 'e',
       now(), 'auth_time', now() + interval '1 day', now(), 'r', 'z', 'y')`,
    [hash, thumbprint],
  )
  await owner.query(
    "INSERT INTO dropgate.revocations (subject) SELECT 'many-' || i FROM generate_series(1, 300) i",
  )
  await owner.query('INSERT INTO dropgate.revocations (everyone) VALUES (true)')
  await owner.query("UPDATE dropgate.revocations SET reason = 'changed' WHERE subject = 'many-1'")
  await owner.query("DELETE FROM dropgate.revocations WHERE subject LIKE 'many-2%'")
  await owner.query('SELECT dropgate.expect_receipts(1)')
  const beat = {
    host: 'h',
    pid: 1,
    version: '0',
    started_at: '2026-01-01Z',
    ready: true,
    cursor: '1:1:',
    age_ms: 1,
    rows: 1,
    allows_ms: 5000,
    matches: {},
    peppers: ['p'],
    token_lifetime_ms: 1000,
  }
  await owner.query('SELECT dropgate.beat($1, $2)', [gate, beat])
  await owner.query("SELECT dropgate.confirm($1, '{1}', '{3}', '{2}')", [gate])
}

t.test('the last preview becomes what a fresh database is, and keeps what is in it', async (t) => {
  const { urlOf, owner } = await preview()
  await fill(owner)
  const before = await contents(owner)
  for (const table of tables) t.ok(before[table]!.length > 0, `${table} has rows`)
  t.notSame(await catalog(owner, 'dropgate'), await catalog(fresh, 'dropgate'))

  const { applied, present } = await migrate(urlOf('migrate_url'), options)
  t.same(applied, ['0001_baseline'])
  t.equal(present.length, 6)

  const [now, expected] = [await catalog(owner, 'dropgate'), await catalog(fresh, 'dropgate')]
  t.ok(expected.length > 200, `${expected.length} things to compare`)
  t.same(
    now.filter((line) => !expected.includes(line)),
    [],
    'nothing else',
  )
  t.same(
    expected.filter((line) => !now.includes(line)),
    [],
    'all of it',
  )
  const names = 'SELECT name, digest FROM dropgate.migrations ORDER BY name'
  t.same((await owner.query(names)).rows, (await fresh.query(names)).rows)

  const after = await contents(owner)
  for (const table of tables) {
    const rows = before[table]!.map((row) => ({ ...(row as object), ...added[table] }))
    t.same(new Set(after[table]!.map(sorted)), new Set(rows.map(sorted)), table)
  }
  t.same((await migrate(urlOf('migrate_url'), options)).applied, [], 'once')
})

const sorted = (row: unknown): string =>
  JSON.stringify(Object.entries(row as object).sort(([a], [b]) => (a < b ? -1 : 1)))

for (const release of earlierReleases()) {
  t.test(`a database of ${release.name} becomes what a fresh one is, with its rows`, async (t) => {
    const name = `of_${release.name.replaceAll('-', '_')}`
    await fresh.query(`CREATE DATABASE ${name}`)
    const url = cluster.migrate_url.replace(/\w+$/, name)
    const folder = mkdtempSync(join(tmpdir(), 'dropgate-upgrade-'))
    t.teardown(() => rmSync(folder, { recursive: true }))
    const config = join(folder, 'dropgate.yaml')
    writeFileSync(config, JSON.stringify({ database: { url, migrate_url: url } }))
    const ran = await command(release, config, 'migrate')
    t.equal(ran.exit, 0, ran.err)
    const owner = await cluster.client(url)
    await fill(owner)
    const rows = async (): Promise<unknown[]> =>
      (await owner.query('SELECT * FROM dropgate.revocations ORDER BY id')).rows
    const triggers = async (): Promise<unknown[]> =>
      (
        await owner.query(
          "SELECT tgname, tgenabled, xmin FROM pg_trigger WHERE tgrelid = 'dropgate.revocations'::regclass AND tgname < 'e' ORDER BY 1",
        )
      ).rows
    const before = { rows: await rows(), triggers: await triggers() }
    t.same((await migrate(url, options)).applied, ['0001_baseline'])
    t.same(await catalog(owner, 'dropgate'), await catalog(fresh, 'dropgate'))
    t.same(await rows(), before.rows)
    if (release.name === earlierReleases().at(-1)!.name)
      t.same(await triggers(), before.triggers, 'gates have no reason to read everything anew')
    const { rows: lifted } = await owner.query(
      "SELECT action FROM dropgate.history WHERE target = 'subject many-1' ORDER BY at",
    )
    t.same(lifted, [{ action: 'inserted a block' }, { action: 'changed the reason' }])
  })
}

t.test('a cursor from before it reads on after it: nothing is loaded anew', async (t) => {
  const { urlOf, owner } = await preview()
  await fill(owner)
  const gate = await cluster.client(urlOf('url'))
  // The statement of a preview's gate, which goes on running while the database is migrated.
  const ask = async (cursor: string): Promise<{ op: string; id: string; meta: string }[]> => {
    const { rows } = await gate.query({
      name: 'changes',
      text: 'SELECT op, id, keys, cutoff_us, exact, auth_time, expires_s, meta FROM dropgate.changes($1::pg_snapshot, 10001)',
      values: [cursor],
    })
    return rows
  }
  const [state] = await ask('1:1:')
  const { snapshot, generation, channel } = JSON.parse(state!.meta)
  await owner.query("INSERT INTO dropgate.revocations (subject) VALUES ('between')")
  await owner.query("DELETE FROM dropgate.revocations WHERE subject = 'many-1'")
  await migrate(urlOf('migrate_url'), options)
  await owner.query("INSERT INTO dropgate.revocations (subject) VALUES ('after')")
  await owner.query("DELETE FROM dropgate.revocations WHERE subject = 'many-3'")
  const changes = await ask(snapshot)
  t.same(
    changes.map(({ op }) => op),
    ['m', 't', 't', 'r', 'r'],
  )
  const after = JSON.parse(changes[0]!.meta)
  t.same([after.generation, after.channel], [generation, channel])

  const followed = await follow(urlOf('url'))
  t.same(await compare(followed, gate), [])
  await owner.query("INSERT INTO dropgate.revocations (subject) VALUES ('followed')")
  const { rows } = await owner.query('SELECT count(*)::int AS n FROM dropgate.revocations')
  await until('the new row', () => followed.ledger.rows === rows[0].n)
  t.same(followed.problems, [])
  await followed.feed.close()
})

t.test('an owner without superuser rights can upgrade', async (t) => {
  await fresh.query("CREATE ROLE modest LOGIN PASSWORD 'modest' CREATEROLE")
  await fresh.query('CREATE DATABASE modest OWNER modest')
  const url = new URL(cluster.migrate_url)
  url.username = 'modest'
  url.password = 'modest'
  url.pathname = '/modest'
  const modest = { schema: 'dropgate', rolePrefix: 'modest_' }
  await migratePreview(await cluster.client(url.href), modest)
  t.same((await migrate(url.href, modest)).applied, ['0001_baseline'])
})

t.test('an upgrade that gets no lock changes nothing and can be tried again', async (t) => {
  const { urlOf, owner } = await preview()
  await fill(owner)
  const before = await catalog(owner, 'dropgate')
  const writer = await cluster.client(urlOf('migrate_url'))
  await writer.query('BEGIN')
  await writer.query("INSERT INTO dropgate.revocations (subject) VALUES ('long')")
  await t.rejects(migrate(urlOf('migrate_url'), options), {
    code: 'ERR_DATABASE_REFUSED',
    message: /^0001_baseline: .*lock timeout/,
  })
  t.same(await catalog(owner, 'dropgate'), before)
  await writer.query('COMMIT')
  await migrate(urlOf('migrate_url'), options)
  t.same(await catalog(owner, 'dropgate'), await catalog(fresh, 'dropgate'))
})

t.test('a database other than the last preview is refused and left as it is', async (t) => {
  const { urlOf, owner } = await preview()
  await fill(owner)
  const before = await catalog(owner, 'dropgate')
  const names: string[] = (
    await owner.query('SELECT name FROM dropgate.migrations ORDER BY name')
  ).rows.map(({ name }) => name)
  t.equal(names.length, 6)
  const unlike = names.flatMap((name) => [
    [`DELETE FROM dropgate.migrations WHERE name = '${name}'`, `${name} was not applied`],
    [
      `UPDATE dropgate.migrations SET digest = 'x' WHERE name = '${name}'`,
      `${name} is not the one of the last preview`,
    ],
  ])
  unlike.push([
    "INSERT INTO dropgate.migrations VALUES ('0001_baseline', 'x')",
    '0001_baseline is there as well',
  ])
  for (const [change = '', why = ''] of unlike) {
    await owner.query('CREATE TABLE kept AS SELECT * FROM dropgate.migrations')
    await owner.query(change)
    const refused = migrate(urlOf('migrate_url'), options)
    await t.rejects(refused, {
      code: 'ERR_DATABASE_SCHEMA',
      message: `the database was made by a preview of 0.1.0 that cannot be upgraded: ${why}`,
      hint: /ALTER SCHEMA dropgate RENAME TO dropgate_old/,
    })
    await owner.query('DELETE FROM dropgate.migrations')
    await owner.query('INSERT INTO dropgate.migrations SELECT * FROM kept; DROP TABLE kept')
  }
  await owner.query("INSERT INTO dropgate.migrations VALUES ('0002_later', 'x')")
  await t.rejects(migrate(urlOf('migrate_url'), options), {
    code: 'ERR_DATABASE_SCHEMA',
    message: 'the database was migrated by a newer release (0002_later)',
  })
  t.same(await catalog(owner, 'dropgate'), before)
})

t.test('the steps of docs/runbook.md keep the rows of a database that is refused', async (t) => {
  const { urlOf, owner } = await preview()
  await fill(owner)
  await owner.query("DELETE FROM dropgate.migrations WHERE name LIKE '0006%'")
  const [aside, copy] = blocksOf('docs/runbook.md')
    .filter(({ language, text }) => language === 'sql' && text.includes('dropgate_old'))
    .map(({ text }) => text)
  await owner.query(aside!)
  await migrate(urlOf('migrate_url'), options)
  await owner.query(copy!)
  t.same(await catalog(owner, 'dropgate'), await catalog(fresh, 'dropgate'))
  // All but who stored it when, in which place, and what the feed writes.
  const rowsOf = async (schema: string): Promise<unknown[]> =>
    (
      await owner.query(
        `SELECT to_jsonb(r) - '{id,created_by,created_at,chg_xid,chg_seq}'::text[] AS row
         FROM ${schema}.revocations r ORDER BY r.id`,
      )
    ).rows
  const rows = await rowsOf('dropgate')
  t.ok(rows.length > 100)
  t.same(rows, await rowsOf('dropgate_old'))
})
