/** A database as the last preview of 0.1.0 left it: its six migrations, run the way it ran them. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import type pg from 'pg'

const folder = new URL('../store/preview/', import.meta.url)

export async function migratePreview(
  client: pg.Client,
  { schema, rolePrefix }: { readonly schema: string; readonly rolePrefix: string },
): Promise<void> {
  await client.query(`CREATE SCHEMA ${schema}`)
  await client.query(`CREATE TABLE ${schema}.migrations (
    name text PRIMARY KEY, digest text NOT NULL, at timestamptz NOT NULL DEFAULT now())`)
  for (const name of readdirSync(folder).sort()) {
    const text = readFileSync(new URL(name, folder), 'utf8')
    await client.query('BEGIN')
    await client.query(text.replaceAll('__schema__', schema).replaceAll('__prefix__', rolePrefix))
    await client.query(`INSERT INTO ${schema}.migrations (name, digest) VALUES ($1, $2)`, [
      name,
      createHash('sha256').update(text).digest('hex'),
    ])
    await client.query('COMMIT')
  }
}
