/** A PostgreSQL as an administrator has it before dropgate. */
import pg from 'pg'

/** What its administrator `postgres` logs in with. */
export interface Administrator {
  readonly url: string
  readonly password: string
}

/** @param url Of the superuser of a cluster of the harness, whose logins, roles and database are taken away. */
export async function makePristine(url: string): Promise<Administrator> {
  const to = new URL(url)
  to.pathname = '/postgres'
  const roles = ['gate', 'revoker', 'lifter', 'breakglass', 'owner'].map(
    (role) => `dropgate_${role}`,
  )
  await run(to.href, [
    'DROP DATABASE dropgate',
    `DROP ROLE gate, cli, breakglass, ${roles.join(', ')}`,
    "CREATE ROLE postgres LOGIN SUPERUSER PASSWORD 'administrator'",
  ])
  to.username = 'postgres'
  to.password = 'administrator'
  await run(to.href, ['ALTER ROLE migrator RENAME TO bootstrap'])
  return { url: to.href, password: to.password }
}

async function run(url: string, statements: readonly string[]): Promise<void> {
  const client = new pg.Client(url)
  await client.connect()
  for (const statement of statements) await client.query(statement)
  await client.end()
}
