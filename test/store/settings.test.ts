/**
 * No setting of a database, role or session changes what a gate reads or a writer stores: every one that PostgreSQL has,
 * each with its extremes. Where a setting legitimately forbids something, it is refused and said.
 */
import { isDeepStrictEqual } from 'node:util'
import pg from 'pg'
import t, { type Test } from 'tap'
import type { RevocationRow } from '../../src/domain/revocation.ts'
import { copyOut, RowReader, rowColumns, rowOf } from '../../src/feed/copy.ts'
import { parsePayload } from '../../src/feed/payload.ts'
import { connect } from '../../src/store/connect.ts'
import { toDatabaseError } from '../../src/store/database-error.ts'
import { listRevocations } from '../../src/store/lookup.ts'
import { receiptsOf } from '../../src/store/statements.ts'
import { everySetting, type Setting } from '../harness/every-setting.ts'
import { startPostgres } from '../harness/postgres.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')
const database = new URL(cluster.url).pathname.slice(1)
const [gateLogin, writerLogin, ownerLogin] = [
  cluster.url,
  cluster.cli_url,
  cluster.migrate_url,
].map((url) => new URL(url).username)

// Thousands of sessions and commits, of which none has to last.
await owner.query('ALTER SYSTEM SET fsync = off')
await owner.query('SELECT pg_reload_conf()')
await owner.query(
  "SELECT set_config('scram_iterations', '1', false) FROM pg_settings WHERE name = 'scram_iterations'",
)
for (const url of [cluster.url, cluster.cli_url]) {
  const { username, password } = new URL(url)
  await owner.query(`ALTER ROLE ${username} PASSWORD '${password}'`)
}
await owner.query(`GRANT pg_monitor TO ${gateLogin}, ${writerLogin}`)

// What a search_path of the session puts before the functions and operators of PostgreSQL.
await owner.query(`
  CREATE SCHEMA hostile; GRANT USAGE ON SCHEMA hostile TO PUBLIC;
  CREATE FUNCTION hostile.pg_current_xact_id() RETURNS xid8 LANGUAGE sql AS $$ SELECT '3'::xid8 $$;
  CREATE FUNCTION hostile.pg_current_snapshot() RETURNS pg_snapshot LANGUAGE sql AS $$ SELECT '3:3:'::pg_snapshot $$;
  CREATE FUNCTION hostile.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT decode(repeat('00', 32), 'hex') $$;
  CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '2001-01-01Z' $$;
  CREATE FUNCTION hostile.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT 'on' $$;
  CREATE FUNCTION hostile.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT $2 $$;
  CREATE FUNCTION hostile.pg_notify(text, text) RETURNS void LANGUAGE sql AS $$ SELECT $$;
  CREATE FUNCTION hostile.always(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
  CREATE OPERATOR hostile.= (FUNCTION = hostile.always, LEFTARG = text, RIGHTARG = text);
  CREATE TABLE hostile.revocations (id bigint); CREATE TABLE hostile.feed (one boolean);`)

const gateId = '11111111-1111-1111-1111-111111111111'
const nonce = '22222222-2222-2222-2222-222222222222'
const thumbprint = 'A'.repeat(43)
/** Rows 1 to 3: every predicate; one that a notification carries; one that a purge takes away. */
const write = `
  INSERT INTO dropgate.revocations (issuer, subject, session_id, token_id, client_id, tenant, group_value, device_id,
      token_hash, key_thumbprint, client_cert, proof_key, network, claims, except_session_id, issued_before, compare,
      expires_at, event_time, reason)
    VALUES ('https://i', 'o''brien', 'x', 'j', 'c', 't', 'g', 'd', decode(repeat('07', 32), 'hex'), '${thumbprint}',
      '${thumbprint}', '${thumbprint}', '::ffff:10.1.0.0/112', '{"/a": 1, "/b": "x"}', 'e', '2026-01-02T03:04:05.678901Z',
      'auth_time', '2199-07-08T09:10:11.5Z', '2026-01-02T03:04:05.25Z', 'first');
  INSERT INTO dropgate.revocations (subject, issued_before, expires_at)
    VALUES ('two', '2026-02-03T04:05:06.789012Z', '2199-01-01T00:00:00.25Z');
  INSERT INTO dropgate.revocations (subject, expires_at) VALUES ('three', '2020-01-01T00:00:00Z');
  SELECT dropgate.expect_receipts(1)`
const change = `
  UPDATE dropgate.revocations SET issued_before = '2026-01-01T00:00:00.000001Z', reason = 'second' WHERE id = 1;
  DELETE FROM dropgate.revocations WHERE id = 2`

const heard: string[] = []
const listener = await cluster.client('url')
listener.on('notification', ({ payload }) => heard.push(payload ?? ''))
const { rows: feed } = await owner.query('SELECT channel FROM dropgate.feed')
await listener.query(`LISTEN ${feed[0].channel}`)
const mac = (await listener.query('SELECT id, key FROM dropgate.mac_key()')).rows[0]

type Seen = Record<string, unknown>

async function clean(): Promise<void> {
  await owner.query(`
    DELETE FROM dropgate.revocations; DELETE FROM dropgate.tomb; DELETE FROM dropgate.anchors; DELETE FROM dropgate.gates;
    DELETE FROM dropgate.waits; DELETE FROM dropgate.receipts; UPDATE dropgate.feed SET purge_row = NULL, tomb_floor = '0';
    SELECT setval('dropgate.revocations_id_seq', 1, false)`)
  await listener.query('SELECT 1')
  heard.length = 0
}

/** The rows with what was stored of them, as a session with default settings sees it. */
async function stored(): Promise<Seen> {
  const { rows } = await owner.query(
    `SELECT to_jsonb(r) - 'chg_xid' - 'chg_seq' - 'created_at' - 'created_by' AS row,
       r.created_at BETWEEN now() - interval '1 min' AND now() + interval '1 min' AS now, created_by IN ($1, $2) AS by,
       r.chg_xid < pg_snapshot_xmax(pg_current_snapshot()) AND r.chg_xid::text::bigint > 500 AS stamped
     FROM dropgate.revocations r ORDER BY id`,
    [writerLogin, ownerLogin],
  )
  return { stored: rows }
}

async function removed(audited: string): Promise<Seen> {
  const { rows: tombs } = await owner.query(
    'SELECT DISTINCT row_id, keys, kind FROM dropgate.tomb ORDER BY 1, 2',
  )
  const { rows: audit } = await owner.query(
    `SELECT action, row_id, image - 'chg_xid' - 'chg_seq' - 'created_at' - 'created_by' AS image,
       image->>'created_at' LIKE '%+00:00' AS utc
     FROM dropgate.audit WHERE id > $1 ORDER BY id`,
    [audited],
  )
  return { tombs, audit }
}

/** What was notified. The payload is checked with the key, so a float or a time written differently would show. */
async function announced(): Promise<Seen> {
  await listener.query('SELECT 1')
  const payloads = heard.splice(0)
  return {
    wakes: payloads.filter((each) => !each.startsWith('p')),
    payloads: payloads
      .filter((each) => each.startsWith('p'))
      .map((each) => parsePayload(each, mac)?.rows),
  }
}

/** Everything that a gate asks for; what differs from one time to the next is left out or compared with this machine. */
async function read(gate: pg.Client): Promise<Seen> {
  const { rows: state } = await gate.query('SELECT * FROM dropgate.state()')
  const { snapshot, clock_ms, tomb_floor: _, anchor: _a, anchor_snapshot: _s, ...rest } = state[0]
  const { rows: changes } = await gate.query({
    text: "SELECT op, kind, id, keys, cutoff_us, exact, auth_time, expires_s, meta, xid FROM dropgate.changes('1:1:'::pg_snapshot, 10001, '{1}'::bigint[])",
    rowMode: 'array',
  })
  const meta = JSON.parse(changes[0]![8] as string)
  const live: RevocationRow[] = []
  const reader = new RowReader((...entry) => live.push(rowOf(...entry)))
  await copyOut(gate, `SELECT ${rowColumns} FROM dropgate.live`, (chunk) => reader.push(chunk))
  reader.end()
  const { rows: digest } = await gate.query(
    'SELECT bucket, rows, ids, words, cutoffs, rest, key_version FROM dropgate.digest ORDER BY bucket',
  )
  return {
    state: rest,
    metaKeys: Object.keys(meta),
    clocks: [clock_ms, meta.clock_ms].map((ms) => Math.abs(Number(ms) - Date.now()) < 60_000),
    snapshots: [snapshot, meta.snapshot].map((each) => /^\d{3,}:\d{3,}:[\d,]*$/.test(each)),
    // Their order means nothing.
    changes: changes
      .slice(1)
      .map((row) => row.slice(0, 8))
      .sort((a, b) => (`${a[0]}${a[2]}` < `${b[0]}${b[2]}` ? -1 : 1)),
    live: live.sort((a, b) => a.id - b.id),
    digest,
    key: (await gate.query('SELECT id, key FROM dropgate.mac_key()')).rows,
  }
}

/** What a gate writes, and how it is stored. */
async function report(gate: pg.Client): Promise<Seen> {
  const beat = {
    ...{
      host: 'h',
      pid: 1,
      version: '0',
      started_at: '2026-01-01T01:02:03.004Z',
      ready: true,
      cursor: '5:9:7',
    },
    ...{
      age_ms: 1234.5678,
      rows: 1,
      allows_ms: 5000.25,
      matches: { i: ['a'] },
      peppers: ['p', 'NULL'],
      token_lifetime_ms: 3_600_000,
      policies: { "gate \\ '": '\\x00' },
    },
  }
  await gate.query('SELECT gates, unmatched FROM dropgate.beat($1, $2)', [
    gateId,
    JSON.stringify(beat),
  ])
  await gate.query('SELECT dropgate.anchor($1)', [nonce])
  const { rows: held } = await gate.query('SELECT * FROM dropgate.held($1)', [[nonce, gateId]])
  const { rows: waiting } = await gate.query('SELECT * FROM dropgate.wanted($1)', [gateId])
  const wanted = waiting.map(({ age_us: _, xid: _x, ...row }) => row)
  await gate.query('SELECT dropgate.confirm($1, $2, $3, $4, $5)', [
    gateId,
    [1],
    [waiting[0]?.xid ?? '0'],
    [0.125],
    [2],
  ])
  const { rows: kept } = await owner.query(
    `SELECT to_jsonb(g) - 'seen_at' - 'fresh_at' AS row, abs(extract(epoch FROM seen_at - fresh_at) - 1.2345678) < 0.2 AS aged
     FROM dropgate.gates g`,
  )
  const { rows: receipts } = await owner.query(
    'SELECT row_id, gate, cuts, abs(extract(epoch FROM now() - at)) < 60 AS now FROM dropgate.receipts',
  )
  return { held, wanted, kept, receipts }
}

async function purge(gate: pg.Client): Promise<Seen> {
  const { rows: purged } = await gate.query('SELECT revocations, tombs FROM dropgate.purge(100)')
  const { rows: left } = await owner.query(
    `SELECT id, everyone, issued_before = date_trunc('hour', now() - interval '24 h 10 min', 'UTC') AS horizon
     FROM dropgate.revocations ORDER BY id`,
  )
  return { purged, left }
}

/** What a command shows. */
async function show(client: pg.Client): Promise<Seen> {
  const listed = await listRevocations(client, 'dropgate', { limit: 10 })
  const receipts = await receiptsOf(client, 'dropgate', 1)
  const { rows: active } = await client.query(
    'SELECT id, kind, target, issued_before, until, predicates FROM dropgate.active ORDER BY id',
  )
  const { rows: history } = await client.query(
    `SELECT action, row_id, target, issued_before, predicates FROM dropgate.history
     WHERE at >= (SELECT min(since) FROM dropgate.active) ORDER BY at, row_id`,
  )
  return {
    active,
    history,
    listed: listed.map(({ created_at: _, created_by: _b, ...row }) => row),
    shown: receipts.map(({ ms, ...receipt }) => ({ ...receipt, ms: typeof ms })),
  }
}

const openCommand = (): Promise<pg.Client> => connect({ url: cluster.cli_url, kind: 'command' })

/** Why a session may be refused what it asks for, by setting: what the setting is for. */
const mayRefuse: Readonly<Record<string, Partial<Record<'gate' | 'writer' | 'command', RegExp>>>> =
  {
    // Sessions of commands may be shared by a pooler, so only formats are set there.
    restrict_nonsystem_relation_kind: { command: /is restricted/ },
    search_path: {},
    default_transaction_read_only: { writer: /25006/ },
    transaction_read_only: { writer: /25006/ },
    // One millisecond is over before the session can be pinned, or the writer's statement ends.
    statement_timeout: { gate: /statement_timeout/, writer: /57014/ },
    transaction_timeout: {
      gate: /transaction_timeout/,
      writer: /25P04|connection error|terminated/,
    },
    idle_session_timeout: {
      gate: /idle_session_timeout/,
      writer: /57P05|connection error|terminated/,
    },
    // The session does not begin.
    session_preload_libraries: { gate: /install the library/, writer: /58P01/ },
    local_preload_libraries: { gate: /install the library/, writer: /58P01/ },
    post_auth_delay: { gate: /got no answer/, writer: /timeout expired/ },
    // Neither does the language of the functions.
    dynamic_library_path: { gate: /install the library/, writer: /58P01/ },
    // Another role has other rights.
    role: { gate: /42501|lacks the role/, writer: /42501/ },
  }

/** @returns undefined where the setting forbids it, which it says */
async function allowed<T>(
  name: string,
  who: 'gate' | 'writer' | 'command',
  run: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await run()
  } catch (error) {
    const { code, hint, message } =
      who !== 'writer'
        ? toDatabaseError(error)
        : (error as { code: string; hint: string; message: string })
    const said = `${code} ${message} (${hint})`
    const may = mayRefuse[name]
    const expected = may?.[who] ?? (who === 'command' ? may?.gate : undefined)
    if (expected?.test(said) === true) return undefined
    throw new Error(`the ${who}: ${said}`, { cause: error })
  }
}

async function newWriter(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: cluster.cli_url, connectionTimeoutMillis: 2500 })
  client.on('error', () => {})
  await client.connect()
  return client
}

/** Writes, reads, reports and purges, with the settings that new sessions have now, or with this writer. */
async function observe(name: string, own?: pg.Client): Promise<Seen> {
  await clean()
  const audited = (await owner.query('SELECT max(id) AS id FROM dropgate.audit')).rows[0].id ?? '0'
  const seen: Seen = {}
  const asGate = async (run: () => Promise<Seen>): Promise<Seen | undefined> =>
    Object.assign(seen, await allowed(name, 'gate', run))
  const asWriter = (sql: string): Promise<boolean | undefined> =>
    allowed(name, 'writer', async () => {
      await writer!.query(sql)
      return true
    })
  const writer = own ?? (await allowed(name, 'writer', newWriter))
  const wrote = writer !== undefined && (await asWriter(write)) === true
  Object.assign(seen, await stored(), await announced(), { wrote })
  const open = (): Promise<pg.Client> => connect({ url: cluster.url, kind: 'feed' })
  // The settings of a writer's own session are no other session's.
  const gate = own === undefined ? await allowed(name, 'gate', open) : reader
  try {
    if (gate !== undefined) {
      await asGate(() => read(gate))
      await asGate(() => report(gate))
      // Which functions a command calls there is up to the search path of its login.
      const shown = await allowed(name, 'command', async () => {
        if (name === 'search_path') return {}
        const client = own === undefined ? await openCommand() : commander
        return await show(client).finally(() => own === undefined && client.end())
      })
      Object.assign(seen, shown)
    }
    if (wrote && (await asWriter(change)) === true) {
      Object.assign(seen, { after: await stored() }, await removed(audited))
      if (gate !== undefined) await asGate(() => purge(gate))
    }
  } finally {
    if (own === undefined) {
      await gate?.end().catch(() => {})
      await writer?.end().catch(() => {})
    }
  }
  return seen
}

const reader = await connect({ url: cluster.url, kind: 'feed' })
const commander = await openCommand()
t.teardown(() => Promise.all([reader.end(), commander.end()]))
const reference = await observe('')

/** Compares with what was seen under default settings. What was refused is not compared, but must not be half done. */
function judge(t: Test, { name, value }: Setting, seen: Seen): void {
  const what = `${name} = ${value}`
  if (seen.wrote !== true) {
    t.same(
      [seen.stored, seen.payloads, seen.wakes],
      [[], [], []],
      `${what}: refused, nothing stored`,
    )
    return
  }
  const expected = Object.entries(reference).filter(
    ([part]) =>
      (part in seen || mayRefuse[name] === undefined) &&
      // How many notifications of a transaction may carry rows is counted there. The others wake the gates.
      !(part === 'payloads' && name === 'dropgate.payloads'),
  )
  for (const [part, as] of expected) {
    if (!isDeepStrictEqual(seen[part], as)) t.same(seen[part], as, `${what}: ${part}`)
  }
}

/** In names of settings whose values decide how text is read and written, or what a statement means. */
const telling =
  /style|zone|output|digits|strings|path|encoding|nulls|quote|transaction|timeout|restrict|replication|role|security|xml|libraries|synchronous|messages|exit|dropgate/i
const seed = seedOf()
const every = await everySetting(owner)
const random = seeded(seed)
// All of them, everywhere, take minutes: `SETTINGS=all`, as `make soak` does. Else each is set in one of the three places.
const all = process.env.SETTINGS === 'all'
const chosen = every.filter(({ name }) => telling.test(name) || random() < 0.1 || all)
const place = new Map(chosen.map((setting) => [setting, Math.floor(random() * 3)]))
const inPlace = (n: number): readonly Setting[] =>
  chosen.filter((setting) => all || place.get(setting) === n)
t.comment(
  `SEED=${seed}: ${chosen.length} of ${every.length} values of ${new Set(every.map(({ name }) => name)).size} settings`,
)

t.test('what is compared is there under default settings', (t) => {
  t.match(reference, { wrote: true, wakes: ['w'], clocks: [true, true], snapshots: [true, true] })
  for (const part of [
    'stored',
    'changes',
    'live',
    'digest',
    'tombs',
    'audit',
    'held',
    'wanted',
    'receipts',
    'listed',
    'purged',
    'left',
  ])
    t.ok((reference[part] as unknown[]).length > 0, part)
  t.match(reference.payloads, [[{ id: 2 }], [{ id: 3 }]])
  t.end()
})

for (const [where, targets, settings] of [
  ['the database', [`DATABASE ${database}`], inPlace(0)],
  ['the roles', [`ROLE ${gateLogin}`, `ROLE ${writerLogin}`], inPlace(1)],
] as const) {
  t.test(`no setting of ${where} changes what is read or stored`, async (t) => {
    let tried = 0
    for (const setting of settings) {
      const { name, value } = setting
      const to = targets.map((target) => `ALTER ${target} SET ${name} TO ${value};`).join(' ')
      const refused = await owner.query(to).then(
        () => undefined,
        (error: { code: string }) => error.code,
      )
      if (refused !== undefined) {
        t.comment(`PostgreSQL ${refused} refuses ${name} = ${value}`)
        tried++
        continue
      }
      try {
        judge(t, setting, await observe(name))
      } catch (error) {
        t.fail(`${name} = ${value}: ${(error as Error).message}`)
      }
      for (const target of targets) await owner.query(`ALTER ${target} RESET ALL`)
      tried++
    }
    t.equal(tried, settings.length)
    t.ok(tried > 20, `${tried} settings tried`)
  })
}

t.test("no setting of the writer's own session changes what is stored", async (t) => {
  let tried = 0
  for (const setting of inPlace(2)) {
    const { name, value } = setting
    const client = await newWriter()
    try {
      const set = `SET ${name} TO ${value}`
      const writer = await client.query(set).then(
        () => client,
        // What only a superuser may set, or what nobody can.
        () =>
          owner.query(set).then(
            () => owner,
            () => undefined,
          ),
      )
      if (writer === undefined) continue
      judge(t, setting, await observe(name, writer))
      tried++
    } catch (error) {
      t.fail(`${name} = ${value}: ${(error as Error).message}`)
    } finally {
      await client.end().catch(() => {})
      await owner.query('RESET ALL')
    }
  }
  t.ok(tried > 15, `${tried} settings tried`)
})
