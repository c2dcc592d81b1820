/**
 * One session with PostgreSQL: LISTEN and ticks use the *same* connection, so an answered tick proves that the
 * connection which listens is alive. A connection that is silent during a tick is destroyed.
 */
import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { GateError } from '../errors.ts'
import { connect, destroyClient, roundTripOf, withClient } from '../store/connect.ts'
import type { ChangeRow } from './apply.ts'
import { changesCap, type Ident } from './cursor.ts'
import type { Touched } from './history.ts'
import type { MacKey } from './payload.ts'
import type { Presence } from './presence.ts'

/** How long the gate's own test notification may take to come back before the session is asked whether it lives. */
const echoMs = 1000

export class Session {
  readonly #client: pg.Client
  readonly #schema: string
  #lost: Error | undefined
  #onMessage: (message: string) => void = () => {}
  #onLost: () => void = () => {}

  private constructor(client: pg.Client, schema: string) {
    this.#client = client
    this.#schema = schema
    client.on('error', (error) => this.#lose(error))
    client.on('end', () => this.#lose(new Error('the connection was closed')))
    client.on('notification', ({ payload }) => this.#onMessage(payload ?? ''))
  }

  /** @throws GateError ERR_DATABASE_UNREACHABLE */
  static async open(url: string, schema: string, silenceMs: number): Promise<Session> {
    return new Session(await connect({ url, kind: 'feed', silenceMs }), schema)
  }

  /** Called for each notification, and when the connection is lost. */
  onEvents(onMessage: (message: string) => void, onLost: () => void): void {
    this.#onMessage = onMessage
    this.#onLost = onLost
  }

  get lost(): Error | undefined {
    return this.#lost
  }

  get roundTripMs(): number {
    return roundTripOf(this.#client)
  }

  /** @returns the database that answers, and the key of its notifications */
  async greet(): Promise<{ ident: Ident; mac: MacKey }> {
    const { rows } = await this.#guarded(
      this.#client.query(
        `SELECT s.*, k.id AS key_id, k.key FROM ${this.#schema}.state() s, ${this.#schema}.mac_key() k`,
      ),
    )
    const { key_id: id, key, ...ident } = rows[0]
    return { ident, mac: { id, key } }
  }

  async listen(channel: string): Promise<void> {
    if (!/^[a-z0-9_]{1,60}$/.test(channel))
      throw new GateError(
        'ERR_DATABASE_SCHEMA',
        'the table dropgate.feed contains an invalid name of the notification channel',
      )
    await this.#guarded(this.#client.query(`LISTEN ${channel}`))
  }

  /**
   * Tests that notifications of other sessions arrive. A pooler in transaction mode runs LISTEN on one server
   * connection and drops the notifications that arrive there while no client uses it. So another session sends a
   * notification while this one is idle.
   * @throws GateError ERR_DATABASE_REFUSED
   */
  async hearsOthers(url: string, channel: string): Promise<void> {
    const nonce = `n${randomUUID()}`
    const before = this.#onMessage
    const echo = Promise.withResolvers<void>()
    let heard = false
    this.#onMessage = (message) => {
      if (message !== nonce) return before(message)
      heard = true
      echo.resolve()
    }
    let timer: NodeJS.Timeout | undefined
    try {
      await withClient({ url, kind: 'self-test' }, (client) =>
        client.query('SELECT pg_notify($1, $2)', [channel, nonce]),
      )
      timer = setTimeout(echo.resolve, echoMs)
      await echo.promise
      // The link may be slow. A server sends what it has to notify before its next answer: if that answer comes and no
      // notification has come before it, none will come.
      if (!heard) await this.#guarded(this.#client.query('SELECT 1'))
      if (!heard) throw listenNotKept()
    } finally {
      clearTimeout(timer)
      this.#onMessage = before
    }
  }

  async macKey(): Promise<MacKey> {
    const { rows } = await this.#guarded(
      this.#client.query(`SELECT id, key FROM ${this.#schema}.mac_key()`),
    )
    return rows[0] as MacKey
  }

  async changes(snapshot: string, again: readonly Touched[]): Promise<ChangeRow[]> {
    return await this.#guarded(readChanges(this.#client, this.#schema, snapshot, again))
  }

  /** @returns those of these anchors that the database has */
  async held(nonces: readonly string[]): Promise<Set<string>> {
    if (nonces.length === 0) return new Set()
    const { rows } = await this.#guarded(
      this.#client.query(`SELECT held AS nonce FROM ${this.#schema}.held($1)`, [nonces]),
    )
    return new Set(rows.map(({ nonce }) => nonce as string))
  }

  /** Does the session that shows itself so run on the same server, in the same run of it? */
  async isBeside(presence: Presence): Promise<boolean> {
    return await this.#guarded(presence.isBeside(this.#client))
  }

  close(): void {
    this.onEvents(
      () => {},
      () => {},
    )
    destroyClient(this.#client)
  }

  /** What has ended the session says more than the error of the statement that was under way or came after it. */
  async #guarded<T>(answer: Promise<T>): Promise<T> {
    try {
      return await answer
    } catch (error) {
      throw this.#lost ?? error
    }
  }

  #lose(error: Error): void {
    this.#lost ??= error
    this.#onLost()
  }
}

/** Asks a session for the changes that were committed since a snapshot. */
export async function readChanges(
  client: pg.Client,
  schema: string,
  snapshot: string,
  again: readonly Touched[],
): Promise<ChangeRow[]> {
  const { rows } = await client.query({
    name: 'changes',
    text: `SELECT op, kind, id, keys, cutoff_us, exact, auth_time, expires_s, meta FROM ${schema}.changes($1::pg_snapshot, ${changesCap + 1}, $2)`,
    values: [snapshot, again.map(({ id }) => id)],
    rowMode: 'array',
  })
  return rows as unknown as ChangeRow[]
}

function listenNotKept(): GateError {
  return new GateError(
    'ERR_DATABASE_REFUSED',
    'this database connection receives no notifications: its LISTEN is lost',
    {
      hint: 'database.url seems to name a pooler in transaction mode: connect to PostgreSQL directly, or use a pooler in session mode',
    },
  )
}
