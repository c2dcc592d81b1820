/**
 * Brings a database to the tables, roles and functions of this release. A migration is a folder of SQL files under
 * `sql`, run in the order of their names in one transaction, once, under an advisory lock: several gates may start at
 * the same time.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { GateError } from '../errors.ts'
import { plainName, withClient } from './connect.ts'
import { toDatabaseError } from './database-error.ts'

/** The value of `feed.schema_version` that this release can read. */
export const schemaVersion = 1

const folder = new URL('./sql/', import.meta.url)
/** Key of the advisory lock: any fixed number that no other program uses. */
const lockId = 4_736_251_190

/** A form that databases had before 0.1.0. */
interface Preview {
  /** The migrations that made it, as `migrations.name` and `migrations.digest` hold them. */
  readonly made: ReadonlyMap<string, string>
  /** The file that changes its tables to those of the next form, or of this release. */
  readonly upgrade: string
  /** It has the triggers of `triggers` as they are now. Gates read everything anew when these are made anew. */
  readonly keepsTriggers?: true
}

/** The oldest first. */
const previews: readonly Preview[] = [
  {
    made: new Map(
      Object.entries({
        '0001_roles.sql': '942c66b9fa4a4017f719d5932eeb80b2e4509bc53a4d06198db02d105773c033',
        '0002_revocations.sql': '510929fb73d64103d48e866f5d230a6303c045936838f4fff6ed2d1441e19798',
        '0003_feed.sql': 'ebf74d5e772f61ab0068d7f314c4dc955a691d9f2a42d704f3848fa274d690d4',
        '0004_targets.sql': '60655f361440ba14f175039aaab980c0e036a70b001b65150e1c4b7cf6e7f6b5',
        '0005_feed.sql': 'ee69ea9c058f3d023c01c1af3897770475ea78d893e6f897f99e67c17219bbf5',
        '0006_fleet.sql': 'c4bc8b8218bed028e07416267ce7081c5627b8df6b785f68a0be89b064cc30c5',
      }),
    ),
    upgrade: 'tables_from_preview_1.sql',
  },
  {
    made: new Map([
      ['0001_baseline', 'bd03a079e59af8c194acd0ec11f450695391a653848e632a4a403793c89be104'],
    ]),
    upgrade: 'tables_from_preview_2.sql',
  },
  {
    made: new Map([
      ['0001_baseline', 'fec937b668ab89cca4328ff28b4b3add85b8a8f779585b9e2fed0f3ee4ecbec9'],
    ]),
    upgrade: 'tables_from_preview_3.sql',
    keepsTriggers: true,
  },
]
const previewNames = new Set(previews.flatMap(({ made }) => [...made.keys()]))
/** The baseline file that creates the tables; for a preview its upgrade and those of all later ones run instead. */
const tables = '3_tables.sql'
const triggers = '4_writing_triggers.sql'

export interface MigrateOptions {
  readonly schema: string
  readonly rolePrefix: string
}

export interface MigrationResult {
  readonly applied: readonly string[]
  readonly present: readonly string[]
}

/** One numbered migration as this release has it. */
interface Migration {
  readonly name: string
  readonly digest: string
  readonly text: string
}

/** @throws GateError ERR_DATABASE_UNREACHABLE, ERR_DATABASE_REFUSED, ERR_DATABASE_SCHEMA */
export async function migrate(url: string, options: MigrateOptions): Promise<MigrationResult> {
  const schema = plainName(options.schema, 'database.schema')
  const prefix = plainName(options.rolePrefix, 'database.role_prefix')
  return await withClient({ url, kind: 'migrate' }, async (client) => {
    await client.query('SELECT pg_advisory_lock($1)', [lockId])
    await client.query(`CREATE SCHEMA IF NOT EXISTS ${schema}`)
    await client.query(`CREATE TABLE IF NOT EXISTS ${schema}.migrations (
      name text PRIMARY KEY, digest text NOT NULL, at timestamptz NOT NULL DEFAULT now())`)
    const { rows } = await client.query(`SELECT name, digest FROM ${schema}.migrations`)
    const known = new Map(rows.map((row) => [row.name as string, row.digest as string]))
    const applied: string[] = []
    for (const { name, digest, text } of missing(known, schema)) {
      const sql = text.replaceAll('__schema__', schema).replaceAll('__prefix__', prefix)
      await client.query('BEGIN')
      try {
        await client.query(sql)
        await client.query(`DELETE FROM ${schema}.migrations WHERE name = ANY ($1)`, [
          [...previewNames],
        ])
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

/**
 * What has to be run on a database with these migrations.
 * @throws GateError ERR_DATABASE_SCHEMA where that would not lead to the tables of this release.
 */
function missing(known: ReadonlyMap<string, string>, schema: string): Migration[] {
  const files = migrations()
  const names = new Set(files.map(({ name }) => name))
  for (const name of known.keys()) {
    if (!names.has(name) && !previewNames.has(name)) throw newer(name)
  }
  const [baseline, ...later] = files
  const form = previews.findIndex(({ made }) => isMade(known, made))
  if (form !== -1) return [{ ...baseline!, text: baselineText(previews.slice(form)) }, ...later]
  if ([...known.keys()].some((name) => previews[0]!.made.has(name))) {
    throw notUpgradable(known, previews[0]!.made, schema)
  }
  return files.filter(({ name, digest }) => {
    const before = known.get(name)
    if (before === undefined) return true
    if (before === digest) return false
    throw new GateError(
      'ERR_DATABASE_SCHEMA',
      `migration ${name} differs from the one that was applied`,
      {
        hint: 'run the release that migrated this database last, or make a new schema and copy the rows into it',
      },
    )
  })
}

function isMade(known: ReadonlyMap<string, string>, made: Preview['made']): boolean {
  return known.size === made.size && [...made].every(([name, digest]) => known.get(name) === digest)
}

function newer(name: string): GateError {
  return new GateError(
    'ERR_DATABASE_SCHEMA',
    `the database was migrated by a newer release (${name})`,
    { hint: 'upgrade dropgate' },
  )
}

/** The error for a database with only some of the old migrations, or with other files under their names. */
function notUpgradable(
  known: ReadonlyMap<string, string>,
  preview: Preview['made'],
  schema: string,
): GateError {
  const strange = [...known].find(([name, digest]) => preview.get(name) !== digest)
  const absent = [...preview.keys()].find((name) => !known.has(name))
  const why =
    strange === undefined
      ? `${absent} was not applied`
      : preview.has(strange[0])
        ? `${strange[0]} is not the one of the last preview`
        : `${strange[0]} is there as well`
  return new GateError(
    'ERR_DATABASE_SCHEMA',
    `the database was made by a preview of 0.1.0 that cannot be upgraded: ${why}`,
    {
      hint: `keep the rows by hand: ALTER SCHEMA ${schema} RENAME TO ${schema}_old; then \`dropgate migrate\`; then INSERT INTO ${schema}.revocations (…) SELECT … FROM ${schema}_old.revocations, as docs/runbook.md says under "Upgrading dropgate"`,
    },
  )
}

function migrations(): Migration[] {
  return readdirSync(folder)
    .filter((name) => /^\d{4}_\w+$/.test(name))
    .sort()
    .map((name) => {
      const text = textOf(filesOf(name))
      return { name, digest: createHash('sha256').update(text).digest('hex'), text }
    })
}

/** Paths of a migration's files in the order in which they run. */
function filesOf(name: string): string[] {
  return readdirSync(new URL(`${name}/`, folder))
    .sort()
    .map((file) => `${name}/${file}`)
}

function textOf(files: readonly string[]): string {
  return files.map((file) => readFileSync(new URL(file, folder), 'utf8')).join('\n')
}

/**
 * The baseline with these upgrades in the place of its tables, and without triggers that are there as they should be: all its
 * other files may run where there is something.
 */
function baselineText(upgrades: readonly Preview[]): string {
  const files = filesOf('0001_baseline').flatMap((file) => {
    if (file.endsWith(`/${tables}`)) return upgrades.map(({ upgrade }) => upgrade)
    return file.endsWith(`/${triggers}`) && upgrades[0]!.keepsTriggers ? [] : [file]
  })
  return textOf(files)
}

function inMigration(name: string, error: unknown): GateError {
  const { code, message, hint, cause } = toDatabaseError(error)
  return new GateError(
    code,
    `${name}: ${message}`,
    hint === undefined ? { cause } : { cause, hint },
  )
}
