/**
 * One session with PostgreSQL: LISTEN and ticks on the *same* connection, so that an answered tick proves that
 * very session alive. A connection that is silent in the middle of a tick is destroyed, not waited for.
 */
import type { Socket } from 'node:net'
import type pg from 'pg'
import { GateError } from '../errors.ts'
import { connect } from '../store/connect.ts'
import type { ChangeRow } from './catchup.ts'
import type { Ident } from './state.ts'

/** No byte for this long while an answer is owed: the connection is dead. Bytes count, not completion. */
const silenceMs = 750
const watchMs = 125

export class Session {
  readonly #client: pg.Client
  readonly #schema: string
  readonly #stream: Socket
  #lost: Error | undefined
  #onWake: () => void = () => {}

  private constructor(client: pg.Client, schema: string) {
    this.#client = client
    this.#schema = schema
    this.#stream = (client as unknown as { connection: { stream: Socket } }).connection.stream
    client.on('error', (error) => this.#lose(error))
    client.on('end', () => this.#lose(new Error('the connection was closed')))
    client.on('notification', () => this.#onWake())
  }

  /** @throws GateError ERR_DATABASE_UNREACHABLE */
  static async open(url: string, schema: string): Promise<Session> {
    return new Session(await connect({ url, name: 'dropgate feed' }), schema)
  }

  /** Called for each notification and when the connection is lost. */
  set onWake(wake: () => void) {
    this.#onWake = wake
  }

  get lost(): Error | undefined {
    return this.#lost
  }

  async ident(): Promise<Ident> {
    const { rows } = await this.#guarded(
      this.#client.query(`SELECT * FROM ${this.#schema}.ident()`),
    )
    return rows[0] as Ident
  }

  /** A pooler in transaction mode would drop LISTEN without a word: the session must be ours alone. */
  async listen(channel: string): Promise<void> {
    if (!/^[a-z0-9_]{1,60}$/.test(channel))
      throw new GateError('ERR_DATABASE_SCHEMA', 'the channel has a strange name')
    await this.#guarded(this.#client.query(`LISTEN ${channel}`))
    const { rows } = await this.#guarded(
      this.#client.query('SELECT pg_listening_channels() AS channel'),
    )
    if (rows.some((row) => row.channel === channel)) return
    throw new GateError('ERR_DATABASE_REFUSED', 'this connection does not keep its LISTEN', {
      hint: 'connect to PostgreSQL directly or through a pooler in session mode',
    })
  }

  async changes(snapshot: string): Promise<ChangeRow[]> {
    const { rows } = await this.#guarded(
      this.#client.query({
        name: 'changes',
        text: `SELECT op, id, keys, cutoff_us, exact, auth_time, expires_s, meta FROM ${this.#schema}.changes($1::pg_snapshot)`,
        values: [snapshot],
        rowMode: 'array',
      }),
    )
    return rows as unknown as ChangeRow[]
  }

  close(): void {
    this.#onWake = () => {}
    this.#client.end().catch(() => {})
    this.#stream.destroy()
  }

  async #guarded<T>(answer: Promise<T>): Promise<T> {
    if (this.#lost !== undefined) throw this.#lost
    let bytes = this.#stream.bytesRead
    let heardAt = performance.now()
    const watch = setInterval(() => {
      const now = performance.now()
      if (this.#stream.bytesRead !== bytes) {
        bytes = this.#stream.bytesRead
        heardAt = now
      } else if (now - heardAt > silenceMs) {
        this.#stream.destroy(new Error(`no answer for ${silenceMs} ms`))
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
    this.#onWake()
  }
}
