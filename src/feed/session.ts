/**
 * One session with PostgreSQL: LISTEN and ticks use the *same* connection, so an answered tick proves that the
 * connection which listens is alive. A connection that is silent during a tick is destroyed.
 */
import { randomUUID } from 'node:crypto'
import type { Socket } from 'node:net'
import type pg from 'pg'
import { GateError } from '../errors.ts'
import { connect, socketOf, withClient } from '../store/connect.ts'
import type { ChangeRow } from './apply.ts'
import { changesCap, type Ident } from './cursor.ts'
import type { MacKey } from './payload.ts'

const watchMs = 50
/** How long the gate's own test notification may take to come back. */
const echoMs = 1000

export class Session {
  readonly #client: pg.Client
  readonly #schema: string
  readonly #stream: Socket
  /**
   * A connection that owes an answer and sends no byte for this long is dead. It need not complete the answer in that
   * time.
   */
  readonly #silenceMs: number
  #lost: Error | undefined
  #onMessage: (message: string) => void = () => {}
  #onLost: () => void = () => {}

  private constructor(client: pg.Client, schema: string, silenceMs: number) {
    this.#client = client
    this.#schema = schema
    this.#silenceMs = silenceMs
    this.#stream = socketOf(client)
    client.on('error', (error) => this.#lose(error))
    client.on('end', () => this.#lose(new Error('the connection was closed')))
    client.on('notification', ({ payload }) => this.#onMessage(payload ?? ''))
  }

  /** @throws GateError ERR_DATABASE_UNREACHABLE */
  static async open(url: string, schema: string, silenceMs: number): Promise<Session> {
    return new Session(await connect({ url, name: 'dropgate feed' }), schema, silenceMs)
  }

  /** Called for each notification, and when the connection is lost. */
  onEvents(onMessage: (message: string) => void, onLost: () => void): void {
    this.#onMessage = onMessage
    this.#onLost = onLost
  }

  get lost(): Error | undefined {
    return this.#lost
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
    let timer: NodeJS.Timeout | undefined
    const heard = new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(false), echoMs)
      this.#onMessage = (message) => {
        if (message === nonce) resolve(true)
        else before(message)
      }
    })
    try {
      await withClient({ url, name: 'dropgate self-test' }, (client) =>
        client.query('SELECT pg_notify($1, $2)', [channel, nonce]),
      )
      if (this.#lost === undefined && !(await heard)) throw listenNotKept()
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

  async changes(snapshot: string): Promise<ChangeRow[]> {
    return await this.#guarded(readChanges(this.#client, this.#schema, snapshot))
  }

  close(): void {
    this.onEvents(
      () => {},
      () => {},
    )
    this.#client.end().catch(() => {})
    this.#stream.destroy()
  }

  async #guarded<T>(answer: Promise<T>): Promise<T> {
    if (this.#lost !== undefined) {
      answer.catch(() => {})
      throw this.#lost
    }
    let bytes = this.#stream.bytesRead
    let silentMs = 0
    let lookedAt = performance.now()
    const watch = setInterval(() => {
      const now = performance.now()
      const passedMs = now - lookedAt
      lookedAt = now
      if (this.#stream.bytesRead !== bytes) {
        bytes = this.#stream.bytesRead
        silentMs = 0
        // Time in which this thread itself did not run does not count as silence of the server.
      } else silentMs += Math.min(passedMs, 2 * watchMs)
      if (silentMs > this.#silenceMs) {
        this.#stream.destroy(new Error(`no answer for ${Math.round(silentMs)} ms`))
      }
    }, watchMs)
    try {
      return await answer
    } finally {
      clearInterval(watch)
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
): Promise<ChangeRow[]> {
  const { rows } = await client.query({
    name: 'changes',
    text: `SELECT op, kind, id, keys, cutoff_us, exact, auth_time, expires_s, meta, xid FROM ${schema}.changes($1::pg_snapshot, ${changesCap + 1})`,
    values: [snapshot],
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
