/**
 * Room: store. In: URLs and statements. Out: rows, or a GateError that tells an operator what to do. Never does:
 * decide, keep state beyond a connection. Only this room and `feed` talk to PostgreSQL.
 *
 * Every session of the gate and of the commands is opened here, so each of them has what follows:
 *
 *  1. A statement whose server falls silent ends here: `Watch` destroys the socket, with an error that says which session
 *     waited for what and how long. The limit grows with the round trip that was measured when the session was opened.
 *  2. It ends at the server too. A lock is waited for less long than the gate waits (`lock_timeout`); a backend looks every
 *     second whether its client is still there (`client_connection_check_interval`) and gives up a client that a dead
 *     network hides (`tcp_*`); and the next session of this process ends what earlier ones have given up
 *     (`endAbandoned`). So a gate has at most one backend of each kind, and for a moment another one that was given up.
 *  3. Timeouts that are set on the login or the database do not reach into it.
 */
import { connect as connectSocket, type Socket } from 'node:net'
import type { Readable } from 'node:stream'
import pg from 'pg'
import { databaseHosts, type Wanted } from '../domain/database-url.ts'
import { GateError } from '../errors.ts'
import { toDatabaseError, unreachable } from './database-error.ts'
import { lockNotAvailable, whoLocks } from './locks.ts'
import { formats, settings } from './settings.ts'
import { Watch } from './watch.ts'

interface Kind {
  /** How long the server may be silent while it owes an answer. `statementMs` and `patiently` are for what takes longer. */
  readonly silenceMs: number
  /** `statement_timeout` of the session, 0 for none; twice `silenceMs` when absent. */
  readonly statementMs?: number
  /**
   * True where the session may be one that a pooler gives to others afterwards: only formats are set, which poolers keep
   * apart. Gates need sessions of their own; writers of revocations may use any pooler.
   */
  readonly shared?: true
}

const minute = 60_000
/** A gate has at most one session of each of the first five kinds; the others are of commands. */
const kinds = {
  /** LISTEN and ticks; the feed gives its own limit. */
  feed: { silenceMs: 5000 },
  /** Sends one notification at the start. */
  'self-test': { silenceMs: 3000 },
  /** Full loads and catch-ups: a COPY may take any time as long as it makes progress. */
  load: { silenceMs: 10_000, statementMs: 0 },
  /** Comparisons: PostgreSQL computes sums over all rows, silently. */
  verify: { silenceMs: 3000, statementMs: 5 * minute },
  fleet: { silenceMs: 3000 },
  command: { silenceMs: 30_000, shared: true },
  /** A migration may build an index over all rows, and waits for another migration. */
  migrate: { silenceMs: 30 * minute },
  /** The embedded PostgreSQL is prepared. */
  embedded: { silenceMs: minute },
  demo: { silenceMs: minute },
} as const satisfies Record<string, Kind>
export type SessionKind = keyof typeof kinds

/** While a session is opened each of its several round trips may take this long. */
const connectSilenceMs = 3000
/** And all of them together this long: a server that sends a byte from time to time makes no progress. */
const connectMs = 30_000
/** A limit is never lower than this many round trips. */
const roundTrips = 3
/** How long a session may take to end in good order. */
const endMs = 1000
/** Part of the silence after which the server gives up a lock: its error has to arrive within the silence. */
const lockShare = 0.7
/** More given-up sessions than this are not remembered; the server ends them by its own timeouts. */
const mostAbandoned = 100

/**
 * Pattern of schema and role names. They are the only values that are pasted into SQL text, so they must need no
 * quoting.
 */
const identifier = /^[a-z_][a-z0-9_]{0,50}$/

export interface ConnectOptions {
  readonly url: string
  /** Its name in `pg_stat_activity` is `dropgate ` and this. */
  readonly kind: SessionKind
  /** In place of the silence of this kind. */
  readonly silenceMs?: number
}

/** What is known of an open session. */
interface Facts {
  readonly watch: Watch
  roundTripMs: number
  /** The server's process; undefined for a shared session, whose process may serve others. */
  process: Process | undefined
}

interface Process {
  readonly url: string
  readonly pid: number
  /** With the pid it names one process for all time. */
  readonly startedAt: string
}

const factsOf = new WeakMap<pg.Client, Facts>()
/** The URL of the host that was of use last, by the URL with all hosts: it is tried first. */
const lastUsed = new Map<string, string>()
/** Processes of the server whose sessions this process has given up in the middle of a statement. */
let abandoned: Process[] = []

/**
 * Opens a session with the first host of the URL that is of use; the caller closes it.
 * @throws GateError ERR_DATABASE_UNREACHABLE
 */
export async function connect(options: ConnectOptions): Promise<pg.Client> {
  const { urls, wanted } = hostsOf(options.url)
  const last = lastUsed.get(options.url)
  const inTurn = last === undefined ? urls : [last, ...urls.filter((url) => url !== last)]
  const failures: GateError[] = []
  for (const url of inTurn) {
    try {
      const client = await connectTo(url, wanted, options)
      if (urls.length > 1) lastUsed.set(options.url, url)
      return client
    } catch (error) {
      failures.push(error as GateError)
    }
  }
  if (failures.length === 1) throw failures[0]
  throw new GateError(
    'ERR_DATABASE_UNREACHABLE',
    `none of the ${failures.length} hosts is of use: ${failures.map(({ message }) => message).join('; ')}`,
    { cause: failures[0], hint: [...new Set(failures.map(({ hint }) => hint))].join('; ') },
  )
}

function hostsOf(url: string): ReturnType<typeof databaseHosts> {
  try {
    return databaseHosts(url)
  } catch (error) {
    throw malformed(error)
  }
}

function malformed(error: unknown): GateError {
  return new GateError(
    'ERR_DATABASE_UNREACHABLE',
    `the database URL is malformed: ${(error as Error).message}`,
    {
      cause: error,
      hint: 'a database URL looks like postgres://login:password@host:5432/database, with several hosts like postgres://login:password@one:5432,two:5432/database?target_session_attrs=read-write',
    },
  )
}

async function connectTo(url: string, wanted: Wanted, options: ConnectOptions): Promise<pg.Client> {
  const name = `dropgate ${options.kind}`
  const client = makeClient(url, name)
  const facts: Facts = {
    watch: new Watch(name, {
      socket: socketOf(client),
      readFrom: () => socketOf(client),
      silenceMs: connectSilenceMs,
      onSilence: () => abandon(facts.process),
    }),
    roundTripMs: 0,
    process: undefined,
  }
  factsOf.set(client, facts)
  // Why the server has ended the session: a statement that comes after that is only told that there is none.
  let lost: Error | undefined
  client.once('error', (error) => {
    lost = error
  })
  watchStatements(client, facts.watch)
  const late = setTimeout(() => socketOf(client).destroy(tooSlow(name)), connectMs)
  try {
    await facts.watch.during('the opening of the session', client.connect())
    const kind: Kind = kinds[options.kind]
    const limits: Kind = { ...kind, silenceMs: options.silenceMs ?? kind.silenceMs }
    // Before the settings: one of them lets transactions write where the server's own does not.
    if (wanted !== 'any') await checkServer(client, wanted)
    if (limits.shared === true) await set(client, formats)
    else await settle(client, url, limits)
    facts.watch.silenceMs = Math.max(limits.silenceMs, roundTrips * facts.roundTripMs)
  } catch (error) {
    destroyClient(client)
    throw unreachable(lost ?? error, `${client.host}:${client.port}/${client.database}`)
  } finally {
    clearTimeout(late)
  }
  return client
}

function makeClient(url: string, name: string): pg.Client {
  let client: pg.Client
  try {
    client = new pg.Client({
      connectionString: url,
      application_name: name,
      // For what is silent for a long time with good reason: the two systems ask each other whether they are there.
      keepAlive: true,
      keepAliveInitialDelayMillis: 10_000,
    })
  } catch (error) {
    throw malformed(error)
  }
  // Without a listener, an error between two queries (the server went away) would end the process. The next query
  // reports it.
  client.on('error', () => {})
  return client
}

/** Puts every statement of this session under its watch, and names who holds a lock that was waited for too long. */
function watchStatements(client: pg.Client, watch: Watch): void {
  const ask = client.query.bind(client) as (query: unknown, values?: unknown) => unknown
  const watched = (query: unknown, values?: unknown): unknown => {
    const { text = '' } = typeof query === 'string' ? { text: query } : (query as { text?: string })
    const answer = ask(query, values)
    if (answer instanceof Promise)
      return watch.during(text, answer).catch((error) => nameLock(client, error))
    watch.duringCopy(text, answer as Readable)
    return answer
  }
  client.query = watched as typeof client.query
}

async function nameLock(client: pg.Client, error: unknown): Promise<never> {
  if ((error as { code?: string }).code !== lockNotAvailable) throw error
  // A transaction that has failed answers nothing else; its owner gives it up in any case.
  await client.query('ROLLBACK')
  throw (await whoLocks((text) => client.query(text), error)) ?? error
}

/** Gives a session of the gate its settings, and learns which process serves it and how far away it is. */
async function settle(client: pg.Client, url: string, limits: Kind): Promise<void> {
  const facts = factsOf.get(client)!
  const sentAt = performance.now()
  const { pid, started_at: startedAt } = await set(client, {
    ...settings,
    lock_timeout: Math.round(limits.silenceMs * lockShare),
    statement_timeout: limits.statementMs ?? 2 * limits.silenceMs,
    client_connection_check_interval: 1000,
    // In seconds, except the last: a client that a dead network hides is given up within 25 s.
    tcp_keepalives_idle: 10,
    tcp_keepalives_interval: 5,
    tcp_keepalives_count: 3,
    tcp_user_timeout: 25_000,
  })
  facts.roundTripMs = performance.now() - sentAt
  facts.process = { url, pid, startedAt }
  await endAbandoned(client, url)
}

/**
 * Sets what the server knows: some settings are newer than the oldest server, and a server on Windows cannot look whether
 * its client is there. Not as startup parameters: poolers refuse those that they do not know.
 */
async function set(
  client: pg.Client,
  values: Readonly<Record<string, string | number>>,
): Promise<{ pid: number; started_at: string }> {
  const { rows } = await client.query({
    text: `SELECT pid, extract(epoch FROM backend_start)::text AS started_at, (
        SELECT pg_catalog.count(pg_catalog.set_config(name, value, false))
        FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) s(name, value)
        WHERE pg_catalog.current_setting(name, true) IS NOT NULL
          AND NOT (name LIKE 'client_connection%' AND pg_catalog.version() ~* 'windows|mingw|visual c'))
      FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())`,
    values: [Object.keys(values), Object.values(values).map(String)],
  })
  return rows[0]
}

/** Ends what earlier sessions of this process have left at the server: it may wait for a lock, or for a lost client. */
async function endAbandoned(client: pg.Client, url: string): Promise<void> {
  const left = abandoned.filter((process) => process.url === url)
  if (left.length === 0) return
  abandoned = abandoned.filter((process) => process.url !== url)
  // A login may end sessions of its own. Where an administrator has taken that right away the server's timeouts are left.
  await client
    .query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE usename = session_user AND (pid, extract(epoch FROM backend_start)::text) IN (
         SELECT * FROM unnest($1::int[], $2::text[]))`,
      [left.map(({ pid }) => pid), left.map(({ startedAt }) => startedAt)],
    )
    .catch((error: unknown) => {
      if (factsOf.get(client)!.watch.lost) throw error
    })
}

function abandon(process: Process | undefined): void {
  if (process !== undefined) abandoned = [...abandoned, process].slice(-mostAbandoned)
}

async function checkServer(client: pg.Client, wanted: Exclude<Wanted, 'any'>): Promise<void> {
  const { rows } = await client.query(
    "SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') AS read_only",
  )
  const { standby, read_only: readOnly } = rows[0] as { standby: boolean; read_only: string }
  const hint = `target_session_attrs=${wanted}: check which server is the primary, and that the URL names it`
  if (standby) throw Object.assign(new Error('it is a standby'), { hint })
  if (wanted === 'read-write' && readOnly === 'on')
    throw Object.assign(new Error('it accepts no writes (default_transaction_read_only)'), { hint })
}

function tooSlow(name: string): GateError {
  return new GateError(
    'ERR_DATABASE_UNREACHABLE',
    `the session "${name}" was not open after ${connectMs} ms`,
    { hint: 'check the network to the database server, and whether the server is overloaded' },
  )
}

/** How long a round trip to the server took when this session was opened. */
export function roundTripOf(client: pg.Client): number {
  return factsOf.get(client)!.roundTripMs
}

/** Runs statements whose server may be silent for this long; a far server has at least `roundTrips` round trips. */
export async function patiently<T>(
  client: pg.Client,
  silenceMs: number,
  use: () => Promise<T>,
): Promise<T> {
  const { watch, roundTripMs } = factsOf.get(client)!
  const before = watch.silenceMs
  watch.silenceMs = Math.max(silenceMs, roundTrips * roundTripMs)
  try {
    return await use()
  } finally {
    watch.silenceMs = before
  }
}

/** The socket of a session, which pg's types omit. Only destroying it ends a session whose server does not answer. */
export function socketOf(client: pg.Client): Socket {
  return (client as unknown as { connection: { stream: Socket } }).connection.stream
}

/** Ends a session without waiting for its server. */
export function destroyClient(client: pg.Client): void {
  const facts = factsOf.get(client)!
  if (facts.watch.owes) abandon(facts.process)
  const socket = socketOf(client)
  client.end().catch(() => {})
  socket.destroy()
}

/** Ends a session in good order, or, where the server does not answer, without it. */
export async function closeClient(client: pg.Client): Promise<void> {
  const late = setTimeout(() => socketOf(client).destroy(), endMs)
  await client.end().catch(() => {})
  clearTimeout(late)
}

/** Runs `use` with a connection that is closed afterwards. */
export async function withClient<T>(
  options: ConnectOptions,
  use: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = await connect(options)
  try {
    return await use(client)
  } catch (error) {
    const shared = 'shared' in kinds[options.kind]
    if (shared && factsOf.get(client)!.watch.lost) throw await cancelled(client, options, error)
    throw toDatabaseError(error)
  } finally {
    await closeClient(client)
  }
}

/**
 * A shared session has no `lock_timeout`, so its statement may still wait at the server. It is cancelled there, and
 * another session looks who holds it up.
 */
async function cancelled(
  client: pg.Client,
  options: ConnectOptions,
  error: unknown,
): Promise<GateError> {
  let named: GateError | undefined
  try {
    const other = await connect(options)
    named = await whoLocks((text) => other.query(text), error).finally(() => closeClient(other))
  } catch {
    // The server cannot be asked: what is known is that it did not answer.
  }
  await sendCancel(client)
  return named ?? toDatabaseError(error)
}

/** A request of the protocol that any connection may make: it names the session by its process and secret. */
async function sendCancel(client: pg.Client): Promise<void> {
  const { processID, secretKey, host, port } = client as unknown as Record<string, number> & {
    host: string
  }
  const request = Buffer.alloc(16)
  for (const [i, word] of [16, 80_877_102, processID!, secretKey!].entries())
    request.writeInt32BE(word, 4 * i)
  const socket = host.startsWith('/')
    ? connectSocket(`${host}/.s.PGSQL.${port}`)
    : connectSocket(port!, host)
  socket.setTimeout(endMs, () => socket.destroy())
  socket.on('error', () => {})
  socket.end(request)
  // The server closes the connection when it has passed the request on.
  await new Promise((resolve) => socket.once('close', resolve))
}

/** @throws GateError ERR_CONFIG_VALUE when the name is not a short lower-case identifier. */
export function plainName(name: string, what: string): string {
  if (identifier.test(name)) return name
  throw new GateError('ERR_CONFIG_VALUE', `${what}: ${JSON.stringify(name)} is not a valid name`, {
    hint: 'use lower-case letters, digits and underscores, at most 51 characters',
  })
}
