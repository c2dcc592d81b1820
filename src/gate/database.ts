/** The database that the gate's own sessions connect to: the configured one, or the embedded cluster, started and migrated first. */
import type { GateConfig } from '../config/options.ts'
import type { Log } from '../domain/log.ts'
import { EmbeddedPostgres } from '../embedded/postgres.ts'

export class Database {
  readonly schema: string
  readonly #embedded: EmbeddedPostgres | undefined
  #url: string | undefined

  constructor(
    { embedded, url, schema, role_prefix: rolePrefix }: GateConfig['database'],
    log: Log,
  ) {
    this.schema = schema
    this.#url = url
    this.#embedded =
      embedded === undefined
        ? undefined
        : new EmbeddedPostgres({ directory: embedded, schema, rolePrefix, log })
  }

  /** URL of the gate's own login; known once the database is open. */
  get url(): string {
    return this.#url!
  }

  /** @throws GateError ERR_DATABASE_EMBEDDED, or an error of the migration */
  async open(): Promise<void> {
    if (this.#embedded !== undefined) this.#url = (await this.#embedded.open()).url
  }

  async close(): Promise<void> {
    await this.#embedded?.close()
  }
}
