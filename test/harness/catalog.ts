/** Everything that a schema consists of, as sorted lines: two databases with the same lines work alike. */
import type pg from 'pg'

const acl = (column: string): string =>
  `(SELECT coalesce(string_agg(a::text, ' ' ORDER BY a::text), '') FROM unnest(${column}) a)`

/** By what it says of the schema `$1`. Positions are counted anew: a dropped column leaves a gap. */
const questions: Readonly<Record<string, string>> = {
  schema: `SELECT n.nspowner::regrole || ' ' || ${acl('n.nspacl')} FROM pg_namespace n WHERE n.nspname = $1`,
  relation: `SELECT concat_ws(' ', c.relname, c.relkind, c.relpersistence, c.relowner::regrole, c.reloptions::text,
      c.relrowsecurity, ${acl('c.relacl')})
    FROM pg_class c WHERE c.relnamespace = $1::regnamespace`,
  column: `SELECT concat_ws(' ', c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname,
      format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, a.attstorage, a.attcollation,
      pg_get_expr(d.adbin, d.adrelid), ${acl('a.attacl')})
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = $1::regnamespace`,
  constraint: `SELECT concat_ws(' ', c.conrelid::regclass, c.conname, c.contype, c.convalidated, c.condeferrable,
      pg_get_constraintdef(c.oid))
    FROM pg_constraint c WHERE c.connamespace = $1::regnamespace`,
  index: `SELECT pg_get_indexdef(i.indexrelid) || ' ' || i.indisvalid
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = $1::regnamespace`,
  sequence: `SELECT concat_ws(' ', s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax,
      s.seqmin, s.seqcache, s.seqcycle)
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid WHERE c.relnamespace = $1::regnamespace`,
  view: `SELECT c.relname || ' ' || pg_get_viewdef(c.oid)
    FROM pg_class c WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'v'`,
  function: `SELECT concat_ws(' ', pg_get_functiondef(p.oid), p.proowner::regrole, ${acl('p.proacl')})
    FROM pg_proc p WHERE p.pronamespace = $1::regnamespace`,
  trigger: `SELECT concat_ws(' ', t.tgenabled, pg_get_triggerdef(t.oid))
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = $1::regnamespace AND NOT t.tgisinternal`,
  type: `SELECT concat_ws(' ', t.typname, t.typtype, t.typowner::regrole, ${acl('t.typacl')})
    FROM pg_type t WHERE t.typnamespace = $1::regnamespace`,
  'default privilege': `SELECT concat_ws(' ', d.defaclrole::regrole, d.defaclobjtype, ${acl('d.defaclacl')})
    FROM pg_default_acl d WHERE d.defaclnamespace = $1::regnamespace`,
}

export async function catalog(client: pg.Client, schema: string): Promise<string[]> {
  const lines: string[] = []
  for (const [kind, text] of Object.entries(questions)) {
    const { rows } = await client.query({ text, values: [schema], rowMode: 'array' })
    for (const [said] of rows) lines.push(`${kind}: ${said}`)
  }
  return lines.sort()
}
