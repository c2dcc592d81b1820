/**
 * Applies the numbered SQL files. Each runs once, in its own transaction, under an advisory lock, because several
 * gates may start at once.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { GateError } from '../errors.ts'
import { plainName, refused, withClient } from './connect.ts'

/** The value of `feed.schema_version` that this release can read. */
export const schemaVersion = 1

const folder = new URL('./sql/', import.meta.url)
/** Key of the advisory lock: any fixed number that no other program uses. */
const lockId = 4_736_251_190

export interface MigrateOptions {
  readonly schema: string
  readonly rolePrefix: string
}

export interface MigrationResult {
  readonly applied: readonly string[]
  readonly present: readonly string[]
}

/** @throws GateError ERR_DATABASE_UNREACHABLE, ERR_DATABASE_REFUSED, ERR_DATABASE_SCHEMA */
export async function migrate(url: string, options: MigrateOptions): Promise<MigrationResult> {
  const schema = plainName(options.schema, 'database.schema')
  const prefix = plainName(options.rolePrefix, 'database.role_prefix')
  return await withClient({ url, name: 'dropgate migrate' }, async (client) => {
    await client.query('SELECT pg_advisory_lock($1)', [lockId])
    await client.query(`CREATE SCHEMA IF NOT EXISTS ${schema}`)
    await client.query(`CREATE TABLE IF NOT EXISTS ${schema}.migrations (
      name text PRIMARY KEY, digest text NOT NULL, at timestamptz NOT NULL DEFAULT now())`)
    const { rows } = await client.query(`SELECT name, digest FROM ${schema}.migrations`)
    const recorded = new Map(rows.map((row) => [row.name as string, row.digest as string]))
    const files = migrations()
    for (const name of recorded.keys()) {
      if (files.some((file) => file.name === name)) continue
      throw new GateError(
        'ERR_DATABASE_SCHEMA',
        `the database was migrated by a newer release (${name})`,
        {
          hint: 'upgrade dropgate to that release',
        },
      )
    }
    const applied: string[] = []
    for (const { name, text } of files) {
      const digest = createHash('sha256').update(text).digest('hex')
      const before = recorded.get(name)
      if (before !== undefined) {
        if (before === digest) continue
        throw new GateError(
          'ERR_DATABASE_SCHEMA',
          `migration ${name} differs from the one that was applied`,
          {
            hint: 'run the release of dropgate that created this database, or start from a fresh schema',
          },
        )
      }
      const sql = text.replaceAll('__schema__', schema).replaceAll('__prefix__', prefix)
      await client.query('BEGIN')
      try {
        await client.query(sql)
        await client.query(`INSERT INTO ${schema}.migrations (name, digest) VALUES ($1, $2)`, [
          name,
          digest,
        ])
        await client.query('COMMIT')
      } catch (error) {
        await client.query('ROLLBACK')
        throw inMigration(name, error)
      }
      applied.push(name)
    }
    return { applied, present: [...recorded.keys()].sort() }
  })
}

function migrations(): { name: string; text: string }[] {
  return readdirSync(folder)
    .filter((file) => /^\d{4}_\w+\.sql$/.test(file))
    .sort()
    .map((name) => ({ name, text: readFileSync(new URL(name, folder), 'utf8') }))
}

function inMigration(name: string, error: unknown): GateError {
  const { code, message, hint, cause } = refused(error)
  return new GateError(
    code,
    `${name}: ${message}`,
    hint === undefined ? { cause } : { cause, hint },
  )
}
