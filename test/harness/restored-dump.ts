/**
 * A logical dump and its restore in place, without pg_dump, which the npm binaries lack: the schema is dropped and made
 * anew by its migrations, then filled with the rows, stamps and sequences of the dump; sessions live on meanwhile.
 */
import { readdirSync, readFileSync } from 'node:fs'
import type pg from 'pg'

const migrations = new URL('../../src/store/sql/', import.meta.url)

/** Receipts and gates are of the history that the dump was taken in; the audit refuses to be filled. */
const left = "('receipts', 'gates', 'audit')"

export async function saveDump(client: pg.Client): Promise<void> {
  await client.query('DROP SCHEMA IF EXISTS saved CASCADE; CREATE SCHEMA saved')
  await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
  await client.query(`
    DO $$
    DECLARE name text;
    BEGIN
      FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'dropgate' AND tablename NOT IN ${left} LOOP
        EXECUTE format('CREATE TABLE saved.%I AS TABLE dropgate.%I', name, name);
      END LOOP;
    END $$;
    CREATE TABLE saved.sequence_values AS
      SELECT sequencename AS name, last_value AS value FROM pg_sequences WHERE schemaname = 'dropgate'`)
  await client.query('COMMIT')
}

/** In one transaction, as `pg_restore --single-transaction` does it. */
export async function restoreDump(client: pg.Client): Promise<void> {
  const sql = readdirSync(migrations, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => name)
    .sort()
    .flatMap((name) => {
      const folder = new URL(`${name}/`, migrations)
      return readdirSync(folder)
        .sort()
        .map((file) => readFileSync(new URL(file, folder), 'utf8'))
    })
    .join('\n')
    .replaceAll('__schema__', 'dropgate')
    .replaceAll('__prefix__', 'dropgate_')
  await withoutDeadlock(
    client,
    `
    BEGIN;
    LOCK TABLE dropgate.revocations, dropgate.tomb, dropgate.waits, dropgate.receipts, dropgate.gates;
    DROP SCHEMA dropgate CASCADE;
    CREATE SCHEMA dropgate;
    CREATE TABLE dropgate.migrations (
      name text PRIMARY KEY, digest text NOT NULL, at timestamptz NOT NULL DEFAULT now());
    ${sql};
    RESET ROLE;
    ${filling}
    COMMIT`,
  )
}

/** Writers and gates go on meanwhile: one of two that wait for each other is ended, and a restore is then begun again. */
async function withoutDeadlock(client: pg.Client, sql: string): Promise<void> {
  for (;;) {
    try {
      await client.query(sql)
      return
    } catch (error) {
      await client.query('ROLLBACK')
      if ((error as { code?: string }).code !== '40P01') throw error
    }
  }
}

/** A restore fills tables that have no triggers yet, so that stamps stay as they were. */
const filling = `
  DO $$
  DECLARE
    name text;
    each record;
  BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'saved' AND tablename <> 'sequence_values' LOOP
      CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT tgname, tgenabled FROM pg_trigger
        WHERE tgrelid = format('dropgate.%I', name)::regclass AND NOT tgisinternal;
      EXECUTE format('ALTER TABLE dropgate.%I DISABLE TRIGGER USER', name);
      EXECUTE format('DELETE FROM dropgate.%I', name);
      EXECUTE format('INSERT INTO dropgate.%I OVERRIDING SYSTEM VALUE TABLE saved.%I', name, name);
      FOR each IN SELECT * FROM kept LOOP
        EXECUTE format('ALTER TABLE dropgate.%I ENABLE %s TRIGGER %I', name,
          CASE each.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE '' END, each.tgname);
      END LOOP;
      DROP TABLE kept;
    END LOOP;
    FOR each IN SELECT * FROM saved.sequence_values WHERE value IS NOT NULL LOOP
      PERFORM setval(format('dropgate.%I', each.name), each.value);
    END LOOP;
  END $$;`
