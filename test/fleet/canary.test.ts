/** Canaries: one gate writes them, every gate measures by them, and they show nowhere else. */
import t, { type Test } from 'tap'
import { readConfig } from '../../src/config/load.ts'
import { keyBytes, keysOf, wordsOfKeys } from '../../src/domain/revocation.ts'
import type { GateError } from '../../src/errors.ts'
import { listRevocations } from '../../src/store/lookup.ts'
import { listFleet, purgeBatch } from '../../src/store/statements.ts'
import { type GateOptions, TestGate } from '../harness/gate.ts'
import { PostgresProxy, startPostgres } from '../harness/postgres.ts'
import { until } from '../harness/wait.ts'

t.setTimeout(280_000)
const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')
const revoker = await cluster.client('cli_url')

interface Status {
  readonly id: string
  readonly ledger: { rows: number }
  readonly fleet: { revocation_ms: number | null; late_canaries: number; unmatched_rows: number }
  readonly feed: { cursor: string }
}
const statusOf = ({ gate }: TestGate): Status => gate.status() as Status

async function start(t: Test, revocation: object, more: GateOptions = {}): Promise<TestGate> {
  const gate = await TestGate.start({ cluster, config: { revocation, workers: 1 }, ...more })
  t.teardown(() => gate.stop())
  return gate
}

/** What `dropgate_revocation_seconds` has counted, and their sum. */
async function measured(gate: TestGate): Promise<{ count: number; sum: number; late: number }> {
  const answer = await fetch(`${gate.admin}/metrics`, {
    headers: { authorization: `Bearer ${gate.adminToken}` },
  })
  const text = await answer.text()
  const of = (name: string): number => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)![1])
  return {
    count: of('dropgate_revocation_seconds_count'),
    sum: of('dropgate_revocation_seconds_sum'),
    late: of('dropgate_canaries_late_total'),
  }
}

const counted = async (text: string): Promise<number> => (await owner.query(text)).rows[0].count
const canaries = (): Promise<number> =>
  counted('SELECT count(*)::int FROM dropgate.waits WHERE canary')

/** The gate has reported so often from here on. */
async function heartbeats(gate: TestGate, number: number): Promise<void> {
  const seen = new Set<number>()
  await until('heartbeats', async () => {
    const { rows } = await owner.query('SELECT seen_at FROM dropgate.gates WHERE id = $1', [
      statusOf(gate).id,
    ])
    for (const { seen_at } of rows) seen.add(seen_at.getTime())
    return seen.size > number
  })
}

t.test('0s: a gate writes none', async (t) => {
  const gate = await start(t, { canary: '0s' })
  await heartbeats(gate, 6)
  t.equal(await canaries(), 0)
  t.equal(statusOf(gate).fleet.revocation_ms, null)
})

t.test('of two gates one writes each canary, both measure it, and it shows nowhere', async (t) => {
  await owner.query("INSERT INTO dropgate.revocations (subject) VALUES ('alice'), ('bob')")
  const gates = [await start(t, { canary: '1s' }), await start(t, { canary: '1s' })]
  await until('each has measured five', async () => {
    const counts = await Promise.all(gates.map(measured))
    return counts.every(({ count }) => count >= 5)
  })
  const { rows } = await owner.query('SELECT at FROM dropgate.waits WHERE canary ORDER BY row_id')
  for (const [i, { at }] of rows.entries()) {
    const ms = i === 0 ? 1000 : at - rows[i - 1].at
    t.ok(ms >= 1000, `${ms} ms after the one before`)
  }
  for (const gate of gates) {
    const { count, sum, late } = await measured(gate)
    t.ok(count <= rows.length && sum > 0 && sum < 5 * count, `${count} in ${sum} s`)
    t.equal(late, 0)
    // A canary counts as a row for the moment until the gate has asked what it is.
    await until('only rows of others count', () => statusOf(gate).ledger.rows === 2)
  }
  const by = await owner.query('SELECT DISTINCT created_by FROM dropgate.revocations WHERE id > 2')
  t.same(
    by.rows.map(({ created_by }) => created_by),
    ['gate'],
  )
  t.equal(await counted('SELECT count(*)::int FROM dropgate.revocations'), 3, 'one at a time')
  t.equal(await counted('SELECT count(*)::int FROM dropgate.audit'), 0)
  t.equal(statusOf(gates[0]!).fleet.unmatched_rows, 0)
  const listed = await listRevocations(revoker, 'dropgate', { limit: 100 })
  t.same(listed.map(({ subject }) => subject).sort(), ['alice', 'bob'])
  let fleet: Record<string, unknown>[] = []
  await until('each has reported that', async () => {
    fleet = await listFleet(revoker, 'dropgate')
    return fleet.length === 2 && fleet.every((gate) => gate.rows === '2')
  })
  for (const { revocation_times: times } of fleet) {
    t.match(times, { missed: 0, last_ms: Number, p50_ms: Number, p99_ms: Number, max_ms: Number })
    t.ok((times as { canaries: number }).canaries >= 5)
  }
})

/** Waits for so many further canaries. */
async function furtherCanaries(number: number): Promise<void> {
  const before = await canaries()
  await until('further canaries', async () => (await canaries()) >= before + number)
}

const patient = { max_staleness: '10m', cut_after: '10m', hard_stop: '20m' }

t.test('a gate that was cut off reports the longer time', async (t) => {
  const proxy = new PostgresProxy()
  const writer = await start(t, { canary: '1s' })
  const databaseUrl = (url: string): Promise<string> => proxy.open(url)
  const gate = await start(t, { canary: '0s', ...patient }, { databaseUrl })
  t.teardown(() => proxy.close())
  await until('it has measured one', async () => (await measured(gate)).count > 0)
  // The session of the heartbeats comes through: the gate hears of canaries that are not in its ledger.
  proxy.admits = (data) => !data.includes('dropgate feed')
  proxy.cut()
  await furtherCanaries(1)
  const before = await measured(gate)
  await furtherCanaries(1)
  // The last canary stays where it is.
  await writer.gate.close()
  const ageS = (): Promise<number> =>
    counted(
      'SELECT extract(epoch FROM clock_timestamp() - max(at))::float8 AS count FROM dropgate.waits WHERE canary',
    )
  await until('it is old', async () => (await ageS()) > 2)
  t.equal((await measured(gate)).count, before.count, 'nothing has come into force meanwhile')
  const atLeastS = await ageS()
  proxy.admits = () => true
  await until('it measures again', async () => (await measured(gate)).count > before.count)
  const seconds = (await measured(gate)).sum - before.sum
  t.ok(seconds > atLeastS && seconds < (await ageS()), `${seconds} s`)
})

t.test('canaries that a gate has missed are counted once it is back', async (t) => {
  const proxy = new PostgresProxy()
  await start(t, { canary: '1s' })
  const databaseUrl = (url: string): Promise<string> => proxy.open(url)
  const revocation = { ...patient, canary: '0s', max_staleness: '600ms', tick: '100ms' }
  const gate = await start(t, revocation, { databaseUrl })
  t.teardown(() => proxy.close())
  await until('it has measured one', async () => (await measured(gate)).count > 0)
  proxy.refusing = true
  proxy.cut()
  const { late } = await measured(gate)
  await furtherCanaries(4)
  proxy.refusing = false
  await until('counted', async () => (await measured(gate)).late >= late + 3)
  await until('ready again', () => gate.gate.readiness().ready)
  // They count as missed once they are ten seconds old.
  for (const table of ['waits', 'receipts'])
    await owner.query(`UPDATE dropgate.${table} SET at = at - interval '10 s'`)
  const fleet = await listFleet(revoker, 'dropgate')
  const { revocation_times: times } = fleet.find(({ id }) => id === statusOf(gate).id)!
  t.ok((times as { missed: number }).missed >= 2, JSON.stringify(times))
})

t.test('a canary that is late is counted, logged, and a reason not to be ready', async (t) => {
  const proxy = new PostgresProxy()
  const gate = await start(
    t,
    { canary: '1s', max_staleness: '600ms', cut_after: '10m', hard_stop: '20m', tick: '100ms' },
    { databaseUrl: (url) => proxy.open(url) },
  )
  t.teardown(() => proxy.close())
  await until('it has measured one', async () => (await measured(gate)).count > 0)
  const before = await measured(gate)
  // Notifications are lost and the feed follows: only the stamp of the row keeps it from the gate.
  await owner.query(`CREATE FUNCTION public.hide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.chg_xid := '3'; RETURN NEW; END $$`)
  await owner.query(`CREATE TRIGGER a_stamp_hide BEFORE INSERT ON dropgate.revocations
    FOR EACH ROW EXECUTE FUNCTION public.hide()`)
  proxy.dropNotifications = true
  await gate.waitsFor('a revocation that was written to measure (a canary) is not in force')
  t.ok((await measured(gate)).late > before.late)
  t.ok(
    gate.logged.some(
      ({ level, message }) => level === 'error' && /canary was not in force/.test(message),
    ),
  )
  await owner.query('DROP TRIGGER a_stamp_hide ON dropgate.revocations')
  await until('ready again', () => gate.gate.readiness().ready)
  t.ok(gate.logged.some(({ message }) => /a canary is in force on this gate again/.test(message)))
  const fleet = await listFleet(revoker, 'dropgate')
  t.ok(fleet.length > 0)
})

t.test('a canary that a lifter deletes at once is no reason not to be ready', async (t) => {
  const gate = await start(t, {
    canary: '0s',
    max_staleness: '600ms',
    tick: '100ms',
    cut_after: '10m',
    hard_stop: '20m',
  })
  await until('ready', () => gate.gate.readiness().ready)
  // Canaries that it finds at first do not count for it.
  await heartbeats(gate, 3)
  const { late } = await measured(gate)
  let id: string | null = null
  await until('one is due', async () => {
    await owner.query('BEGIN')
    id = (await owner.query('SELECT row_id FROM dropgate.canary(1000)')).rows[0].row_id
    if (id !== null) await owner.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
    await owner.query('COMMIT')
    return id !== null
  })
  await until('it is counted as late', async () => (await measured(gate)).late > late)
  const { reasons } = gate.gate.readiness()
  t.notOk(
    reasons.some((reason) => /canary/.test(reason)),
    reasons.join(),
  )
})

t.test('a lock on the table, or a standby that is away, holds up no heartbeats', async (t) => {
  const gate = await start(t, { canary: '1s' })
  await until('it has measured one', async () => (await measured(gate)).count > 0)
  const said = (pattern: RegExp): boolean =>
    gate.logged.some(({ message }) => pattern.test(message))
  // Those who read are not held up, so the gate goes on to follow.
  await owner.query('BEGIN; LOCK TABLE dropgate.revocations IN SHARE MODE')
  await until('it says so', () => said(/cannot write a canary: .*holds ShareLock/))
  await owner.query('COMMIT')

  await owner.query("ALTER SYSTEM SET synchronous_standby_names = 'away'")
  await owner.query('SELECT pg_reload_conf()')
  const shown = await cluster.client('migrate_url')
  await until('commits wait', async () => {
    const { rows } = await shown.query('SHOW synchronous_standby_names')
    return rows[0].synchronous_standby_names === 'away'
  })
  const { count } = await measured(gate)
  await furtherCanaries(2)
  await until('they are in force', async () => (await measured(gate)).count >= count + 2)
  await owner.query('ALTER SYSTEM RESET synchronous_standby_names')
  await owner.query('SELECT pg_reload_conf()')
  t.notOk(said(/cannot report/))
})

t.test('canaries go on after the clock of the server was set back', async (t) => {
  await owner.query("UPDATE dropgate.waits SET at = now() + interval '1 day' WHERE canary")
  const before = await canaries()
  const gate = await start(t, { canary: '1s' })
  await until('two further ones', async () => (await canaries()) >= before + 2)
  await until('measured', async () => (await measured(gate)).count >= 2)
  t.equal(await counted('SELECT count(*)::int FROM dropgate.revocations'), 3)
})

t.test('what gates that are gone have left is purged, without a trace', async (t) => {
  await owner.query("UPDATE dropgate.waits SET at = now() - interval '2 h'")
  t.equal(await counted('SELECT count(*)::int FROM dropgate.revocations'), 3)
  const purged = await purgeBatch(revoker, 'dropgate', 100)
  t.equal(purged.revocations, 0, 'no row that a user wrote')
  const { rows } = await owner.query('SELECT subject FROM dropgate.revocations ORDER BY subject')
  t.same(rows, [{ subject: 'alice' }, { subject: 'bob' }], 'only the rows of users are left')
  t.equal(await canaries(), 0)
  t.equal(await counted('SELECT count(*)::int FROM dropgate.receipts'), 0)
  t.equal(await counted('SELECT count(*)::int FROM dropgate.audit'), 0)
})

t.test('no issuer can mint a token that a canary hits', async (t) => {
  const gate = await cluster.client('url')
  const written = await gate.query('SELECT * FROM dropgate.canary(60000)')
  const { row_id, due_ms } = written.rows[0]
  t.equal(due_ms, '60000')
  t.same((await gate.query('SELECT row_id FROM dropgate.canary(60000)')).rows, [{ row_id: null }])
  const { rows } = await owner.query('SELECT * FROM dropgate.revocations WHERE id = $1', [row_id])
  const { issuer, keys } = rows[0]
  t.match(issuer, /^dropgate:canary:[0-9a-f-]{36}$/)
  t.equal(keys.length, keyBytes)
  const key = wordsOfKeys([keys.subarray(1)]).join()
  const has = (found: Uint32Array): boolean =>
    Array.from({ length: found.length / 4 }, (_, i) =>
      found.slice(i * 4, i * 4 + 4).join(),
    ).includes(key)
  const who = {
    subject: issuer,
    sessionId: issuer,
    tokenId: issuer,
    clientId: issuer,
    tenant: issuer,
  }
  t.ok(has(keysOf({ ...who, issuer })), 'it would hit tokens of its issuer')
  const others = { ...who, groups: [issuer], actors: [{ issuer, subject: issuer }] }
  t.notOk(has(keysOf({ ...others, issuer: 'https://idp.example' })), 'and no others')
  const configuration = JSON.stringify({
    database: { url: cluster.url },
    issuers: [
      { issuer, audience: ['api'], algorithms: ['ES256'], jwks_uri: 'https://idp.example' },
    ],
    routes: [{ name: 'a', upstream: 'http://127.0.0.1:1' }],
  })
  try {
    readConfig(configuration, '.', {})
    t.fail('a configuration with this issuer is refused')
  } catch (error) {
    t.match((error as GateError).problems, [
      { path: 'issuers[0].issuer', message: 'names that begin with dropgate: are reserved' },
    ])
  }
})
