/**
 * Numbered SQL files, each in its own transaction, once, under an advisory lock: several gates may start at once.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { GateError } from '../errors.ts'
import { plainName, refused, withClient } from './connect.ts'

/** The `feed.schema_version` that this release reads. */
export const schemaVersion = 1

const folder = new URL('./sql/', import.meta.url)
/** Any fixed number; only migrators of dropgate take it. */
const lockId = 4_736_251_190

export interface MigrateOptions {
  readonly schema: string
  readonly rolePrefix: string
}

export interface Migrated {
  readonly applied: readonly string[]
  readonly present: readonly string[]
}

/** @throws GateError ERR_DATABASE_UNREACHABLE, ERR_DATABASE_REFUSED, ERR_DATABASE_SCHEMA */
export async function migrate(url: string, options: MigrateOptions): Promise<Migrated> {
  const schema = plainName(options.schema, 'database.schema')
  const prefix = plainName(options.rolePrefix, 'database.role_prefix')
  return await withClient({ url, name: 'dropgate migrate' }, async (client) => {
    await client.query('SELECT pg_advisory_lock($1)', [lockId])
    await client.query(`CREATE SCHEMA IF NOT EXISTS ${schema}`)
    await client.query(`CREATE TABLE IF NOT EXISTS ${schema}.migrations (
      name text PRIMARY KEY, digest text NOT NULL, at timestamptz NOT NULL DEFAULT now())`)
    const { rows } = await client.query(`SELECT name, digest FROM ${schema}.migrations`)
    const known = new Map(rows.map((row) => [row.name as string, row.digest as string]))
    const files = migrations()
    for (const name of known.keys()) {
      if (files.some((file) => file.name === name)) continue
      throw new GateError(
        'ERR_DATABASE_SCHEMA',
        `the database was migrated by a newer release (${name})`,
        {
          hint: 'upgrade dropgate',
        },
      )
    }
    const applied: string[] = []
    for (const { name, text } of files) {
      const digest = createHash('sha256').update(text).digest('hex')
      const before = known.get(name)
      if (before !== undefined) {
        if (before === digest) continue
        throw new GateError(
          'ERR_DATABASE_SCHEMA',
          `migration ${name} differs from the one that was applied`,
          {
            hint: 'run the release that made this database, or start from a fresh schema',
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
    return { applied, present: [...known.keys()].sort() }
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
