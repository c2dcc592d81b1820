/**
 * Shows one session that another one runs on the same server, in the same run of that server: the other session holds an
 * advisory lock with a random key as long as it lives. The lock is in the server's memory, so no other server has it, and
 * it is gone after a crash. history.ts says what depends on it.
 */
import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import { GateError } from '../errors.ts'

export class Presence {
  readonly #key: string

  private constructor(key: string) {
    this.#key = key
  }

  /** The session holds its lock from now on. */
  static async show(client: pg.Client): Promise<Presence> {
    const key = String(randomBytes(8).readBigInt64BE())
    await client.query('SELECT pg_advisory_lock($1)', [key])
    return new Presence(key)
  }

  /** @returns whether the session that shows itself runs beside this one. Both must be alive at this time. */
  async isBeside(client: Pick<pg.Client, 'query'>): Promise<boolean> {
    const { rows } = await client.query('SELECT pg_try_advisory_xact_lock($1) AS free', [this.#key])
    return rows[0].free === false
  }
}

/** The error where it does not. */
export function otherServer(): GateError {
  return new GateError(
    'ERR_DATABASE_UNREACHABLE',
    'two connections of this gate lead to different servers, or the server has restarted in between',
    {
      hint: 'this passes after a failover; if it stays, database.url leads to several servers: let it lead to the primary only',
    },
  )
}
