/** Sessions with PostgreSQL when the network, the server or another session is in the way. */
import type pg from 'pg'
import t, { type Test } from 'tap'
import type { GateError } from '../../src/errors.ts'
import { copyOut } from '../../src/feed/copy.ts'
import {
  closeClient,
  connect,
  patiently,
  type SessionKind,
  withClient,
} from '../../src/store/connect.ts'
import { toDatabaseError } from '../../src/store/database-error.ts'
import { PostgresProxy, startPostgres } from '../harness/postgres.ts'
import { pause, until } from '../harness/wait.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')

async function proxied(t: Test): Promise<{ proxy: PostgresProxy; url: string }> {
  const proxy = new PostgresProxy()
  t.teardown(() => proxy.close())
  return { proxy, url: await proxy.open(cluster.url) }
}

async function errorOf(answer: Promise<unknown>): Promise<GateError> {
  return await answer.then(
    () => {
      throw new Error('it was answered')
    },
    (error: GateError) => error,
  )
}

/** How many sessions of this kind the server has. */
async function backends(kind: SessionKind, more = ''): Promise<number> {
  const { rows } = await owner.query(
    `SELECT FROM pg_stat_activity WHERE application_name = $1 ${more}`,
    [`dropgate ${kind}`],
  )
  return rows.length
}

t.test('a server that falls silent while a session is opened is given up', async (t) => {
  const { proxy, url } = await proxied(t)
  proxy.loses = () => true
  const error = await errorOf(connect({ url, kind: 'load' }))
  t.match(error, {
    code: 'ERR_DATABASE_UNREACHABLE',
    message:
      /cannot connect to 127\.0\.0\.1:\d+\/\w+: the session "dropgate load" got no answer for 3000 ms to: the opening of the session/,
    hint: /network/,
  })
})

t.test('every kind of session ends when its server owes an answer and is silent', async (t) => {
  const kinds: SessionKind[] = ['feed', 'self-test', 'load', 'verify', 'fleet', 'command']
  for (const kind of [...kinds, 'migrate', 'embedded', 'demo'] as const) {
    const { proxy, url } = await proxied(t)
    const client = await connect({ url, kind, silenceMs: 200 })
    await client.query('SELECT 1')
    proxy.silent = true
    const error = await errorOf(client.query('SELECT 2 /* which  one */'))
    t.match(error, {
      code: 'ERR_DATABASE_UNREACHABLE',
      // Three round trips of a busy machine may be more than 200 ms.
      message: new RegExp(
        `^the session "dropgate ${kind}" got no answer for \\d+ ms to: SELECT 2 /\\* which one \\*/$`,
      ),
      hint: /network/,
    })
    await closeClient(client)
  }
})

t.test('an end in good order that gets no answer is an end all the same', async (t) => {
  const { proxy, url } = await proxied(t)
  const client = await connect({ url, kind: 'self-test' })
  const terminate = 0x58
  proxy.loses = (_session, data) => data[0] === terminate
  await closeClient(client)
  t.equal(proxy.lost, 1)
})

t.test('a statement that computes silently has the time that it was given', async (t) => {
  const client = await connect({ url: cluster.url, kind: 'load', silenceMs: 200 })
  await patiently(client, 20_000, () => client.query('SELECT pg_sleep(0.6)'))
  t.match(await errorOf(client.query('SELECT pg_sleep(60)')), { message: /for \d+ ms to: SELECT/ })
})

t.test('a limit is never lower than three round trips', async (t) => {
  const { proxy, url } = await proxied(t)
  proxy.delayMs = 150
  const client = await connect({ url, kind: 'load', silenceMs: 50 })
  await client.query('SELECT 1')
  await closeClient(client)
})

t.test('a COPY may take long, for its reader or in all, but not be silent', async (t) => {
  const { proxy, url } = await proxied(t)
  const client = await connect({ url, kind: 'load', silenceMs: 300 })
  let chunks = 0
  const read = (): Promise<void> =>
    copyOut(client, "SELECT repeat('x', 100000) FROM generate_series(1, 200)", async () => {
      // The reader takes longer for one chunk than the server may be silent.
      if (++chunks === 3) await pause(700)
    })
  await read()
  t.ok(chunks > 3)
  await client.query('SELECT 1')
  chunks = 4
  const late = copyOut(
    client,
    "SELECT repeat('x', 100000), pg_sleep(0.02) FROM generate_series(1, 100000)",
    () => {
      if (++chunks === 20) proxy.silent = true
    },
  )
  t.match(await errorOf(late), { message: /"dropgate load" got no answer for 300 ms to: COPY/ })
  t.ok(chunks >= 20)
})

t.test('a statement that is given up ends at the server as well', async (t) => {
  const client = await connect({ url: cluster.url, kind: 'load', silenceMs: 200 })
  await errorOf(client.query('SELECT pg_sleep(600)'))
  await until('its backend is gone', async () => (await backends('load')) === 0)
  t.pass()
})

t.test('what a dead network hides from the server is ended by the next session', async (t) => {
  const { proxy, url } = await proxied(t)
  proxy.loses = (_session, data) => data.includes('pg_sleep')
  for (let i = 0; i < 5; i++) {
    const client = await connect({ url, kind: 'load', silenceMs: 100 })
    const waiting = errorOf(client.query('SELECT pg_sleep(600) /* lost */'))
    await until('only this one is left', async () => (await backends('load')) <= 1)
    await waiting
  }
  t.equal(proxy.lost, 5)
  const last = await connect({ url, kind: 'load' })
  await until('the others are gone', async () => (await backends('load')) === 1)
  await closeClient(last)
})

t.test('timeouts set on the login or the database do not reach into a session', async (t) => {
  const { rows } = await owner.query(
    "SELECT name FROM pg_settings WHERE name ~ 'timeout$' AND context = 'user' AND unit = 'ms' AND name NOT IN ('tcp_user_timeout', 'wal_sender_timeout')",
  )
  const names = rows.map(({ name }) => name as string)
  for (const name of names) await owner.query(`ALTER ROLE gate SET ${name} = 77`)
  t.teardown(() => owner.query('ALTER ROLE gate RESET ALL'))
  const client = await connect({ url: cluster.url, kind: 'load' })
  for (const name of names) {
    const found = await client.query('SELECT current_setting($1) AS value', [name])
    t.not(found.rows[0].value, '77ms', name)
  }
  await closeClient(client)
})

async function locked(t: Test): Promise<{ holder: pg.Client; pid: number }> {
  const holder = await cluster.client('migrate_url')
  await holder.query("SET application_name = 'the culprit'")
  const { rows } = await holder.query('SELECT pg_backend_pid() AS pid')
  await holder.query('BEGIN; LOCK TABLE dropgate.revocations IN ACCESS EXCLUSIVE MODE')
  t.teardown(() => holder.query('ROLLBACK').catch(() => {}))
  return { holder, pid: rows[0].pid }
}

t.test('a lock that holds up a session is named with the process that holds it', async (t) => {
  const { holder, pid } = await locked(t)
  const client = await connect({ url: cluster.url, kind: 'load', silenceMs: 500 })
  await client.query('BEGIN')
  t.match(await errorOf(client.query('SELECT count(*) FROM dropgate.live')), {
    code: 'ERR_DATABASE_REFUSED',
    message: new RegExp(
      `waited too long for a lock: process ${pid} \\(login \\w+, application "the culprit"\\) holds AccessExclusiveLock on dropgate\\.revocations$`,
    ),
    hint: new RegExp(`pg_terminate_backend\\(${pid}\\)`),
  })
  // A reader is not in the way; a session that waits behind it for a lock is.
  await holder.query('ROLLBACK; BEGIN; LOCK TABLE dropgate.revocations IN ACCESS SHARE MODE')
  const second = await cluster.client('migrate_url')
  const waiting = second.query(
    'BEGIN; LOCK TABLE dropgate.revocations IN ACCESS EXCLUSIVE MODE; ROLLBACK',
  )
  waiting.catch(() => {})
  await until('it waits', async () => {
    const { rows } = await owner.query('SELECT FROM pg_locks WHERE NOT granted')
    return rows.length > 0
  })
  t.match(await errorOf(client.query('SELECT count(*) FROM dropgate.live')), {
    message: new RegExp(`waits behind process ${pid} for AccessExclusiveLock on dropgate`),
  })
  await holder.query('ROLLBACK')
  await closeClient(client)
})

t.test('a command that waits for a lock names it, and waits no longer at the server', async (t) => {
  const { holder, pid } = await locked(t)
  const insert = "INSERT INTO dropgate.revocations (subject) VALUES ('held up')"
  const asked = withClient(
    { url: cluster.cli_url, kind: 'command', silenceMs: 300 },
    async (client) => await client.query(insert),
  )
  t.match(await errorOf(asked), { message: new RegExp(`process ${pid} .* holds Access`) })
  await until('it is gone', async () => (await backends('command')) === 0)
  await holder.query('COMMIT')
  const { rows } = await owner.query('SELECT FROM dropgate.revocations')
  t.equal(rows.length, 0, 'it is not inserted after the command has given up')
})

t.test('each failure has a hint of its own', async (t) => {
  const there = new URL(cluster.url)
  const failing = async (change: (url: URL) => void, sql?: string): Promise<GateError> => {
    const url = new URL(there)
    change(url)
    if (sql !== undefined) await owner.query(sql)
    return await errorOf(connect({ url: url.href, kind: 'fleet' }))
  }
  const password = await failing((url) => {
    url.password = 'wrong'
  })
  t.match(password, { message: /password authentication failed/, hint: /login and password/ })
  const database = await failing((url) => {
    url.pathname = '/nowhere'
  })
  t.match(database, { message: /"nowhere" does not exist/, hint: /create the database/ })
  const port = await failing((url) => {
    url.port = '1'
  })
  t.match(port, { message: /ECONNREFUSED/, hint: /check that PostgreSQL runs/ })
  const host = await failing((url) => {
    url.hostname = 'no-such-host.invalid'
  })
  t.match(host, { message: /no-such-host/, hint: /check the (?:host|DNS)/ })
  const stay = (): void => {}
  const full = await failing(stay, 'ALTER ROLE gate CONNECTION LIMIT 0')
  t.match(full, { message: /too many connections/, hint: /has no free connection/ })
  const closed = await failing(stay, 'ALTER ROLE gate CONNECTION LIMIT -1 NOLOGIN')
  t.match(closed, { message: /not permitted to log in/, hint: /may log in/ })
  await owner.query('ALTER ROLE gate LOGIN')

  const client = await connect({ url: cluster.url, kind: 'fleet', silenceMs: 300 })
  const timeout = toDatabaseError(
    await errorOf(
      client
        .query("SELECT set_config('statement_timeout', '50', false), pg_sleep(0)")
        .then(() => client.query('SELECT pg_sleep(9)')),
    ),
  )
  t.match(timeout, {
    code: 'ERR_DATABASE_REFUSED',
    message: /timeout \(57014\)/,
    hint: /statement_timeout/,
  })
  const { rows } = await client.query('SELECT pg_backend_pid() AS pid')
  await owner.query('SELECT pg_terminate_backend($1)', [rows[0].pid])
  const ended = toDatabaseError(await errorOf(client.query('SELECT 1')))
  t.match(ended, { code: 'ERR_DATABASE_UNREACHABLE', message: /./, hint: /./ })
})

t.test(
  'of several hosts the one that accepts writes is used, and every failure is told',
  async (t) => {
    const there = new URL(cluster.url)
    const several = (...hosts: string[]): string =>
      `postgres://${there.username}:${there.password}@${hosts.join()}${there.pathname}`
    const client = await connect({ url: several('127.0.0.1:1', there.host), kind: 'fleet' })
    t.equal((await client.query('SELECT 1 AS one')).rows[0].one, 1)
    await closeClient(client)
    await owner.query('ALTER ROLE gate SET default_transaction_read_only = on')
    t.teardown(() => owner.query('ALTER ROLE gate RESET ALL'))
    const error = await errorOf(connect({ url: several('127.0.0.1:1', there.host), kind: 'fleet' }))
    t.match(error, {
      code: 'ERR_DATABASE_UNREACHABLE',
      message:
        /^none of the 2 hosts is of use: cannot connect to .*accepts no writes.*; cannot connect to 127\.0\.0\.1:1\/\w+: .*ECONNREFUSED/,
      hint: /target_session_attrs=read-write: .*; check that PostgreSQL runs/,
    })
    t.notMatch(error.message, new RegExp(there.password))
    const any = await connect({
      url: `${several('127.0.0.1:1', there.host)}?target_session_attrs=any`,
      kind: 'fleet',
    })
    await closeClient(any)
    const standby = `${several(there.host)}?target_session_attrs=prefer-standby`
    t.match(await errorOf(connect({ url: standby, kind: 'fleet' })), {
      message: /malformed: .*prefer-standby/,
    })
  },
)
