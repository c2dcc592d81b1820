/** The logins of an own PostgreSQL: their passwords, and the SQL that makes them. */
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'

export interface Login {
  readonly name: string
  /** The environment variable with its password. */
  readonly variable: string
  /** The option of the configuration with its URL. */
  readonly option: 'url' | 'cli_url' | 'migrate_url' | 'breakglass_url'
  /** Its roles, without their prefix. */
  readonly roles: readonly string[]
  readonly what: string
}

export const logins: readonly Login[] = [
  {
    name: 'gate',
    variable: 'GATE_PASSWORD',
    option: 'url',
    roles: ['gate'],
    what: 'the gate itself: reads revocations, writes none',
  },
  {
    name: 'ops',
    variable: 'OPS_PASSWORD',
    option: 'cli_url',
    roles: ['revoker', 'lifter'],
    what: 'the commands revoke, lift, list and sql',
  },
  {
    name: 'migrator',
    variable: 'MIGRATOR_PASSWORD',
    option: 'migrate_url',
    roles: ['owner'],
    what: 'the command migrate: makes and changes the tables',
  },
  {
    name: 'breakglass',
    variable: 'BREAKGLASS_PASSWORD',
    option: 'breakglass_url',
    roles: ['breakglass', 'lifter'],
    what: 'revoke, lift and sql with --breakglass: rows that hit everyone',
  },
]

/** The prefix of roles that a configuration has when it names none. */
const prefix = 'dropgate_'

export type Passwords = ReadonlyMap<string, string>

/** @param text What the file with the variables holds already: its passwords are kept. */
export function passwordsFrom(text: string): Passwords {
  const known = new Map(
    [...text.matchAll(/^(\w+)=([\w-]+)$/gm)].map(([, name, value]) => [name!, value!]),
  )
  return new Map(
    logins.map(({ variable }) => [
      variable,
      known.get(variable) ?? randomBytes(24).toString('base64url'),
    ]),
  )
}

export function environmentText(passwords: Passwords): string {
  const lines = logins.map(
    ({ variable, what }) => `# For ${what}.\n${variable}=${passwords.get(variable)}\n`,
  )
  return `# The passwords of the logins in dropgate.yaml. Keep this file out of version control. A program needs the passwords that
# it uses and no others: the gate only the first.
${lines.join('')}`
}

/** @param server The URL of the server for an administrator. */
export function loginsSql(passwords: Passwords, database: string, server: string): string {
  const roles = [...new Set(logins.flatMap((login) => login.roles))].map((role) => prefix + role)
  const owner = `${prefix}owner`
  const made = logins.map(({ name, variable, roles, what }) => {
    const rights = name === 'migrator' ? 'LOGIN CREATEROLE' : 'LOGIN'
    const groups = roles.map((role) => prefix + role).join(', ')
    const admin = groups === owner ? ' WITH ADMIN OPTION' : ''
    return `-- For ${what}.
CREATE ROLE ${name} ${rights} PASSWORD '${verifierOf(passwords.get(variable)!)}';
GRANT ${groups} TO ${name}${admin};
`
  })
  const names = logins.map(({ name }) => name).join(', ')
  const quoted = `"${database.replaceAll('"', '""')}"`
  return `-- The roles and logins of dropgate in PostgreSQL 15 to 18, made by \`dropgate init\`. An administrator runs it once:
--   psql ${server} -f dropgate-logins.sql
-- It holds no password: each login gets a SCRAM-SHA-256 verifier, which is what PostgreSQL stores. The passwords are in
-- dropgate.env.
BEGIN;

-- Rights belong to these roles, and logins are members of them. \`dropgate migrate\` gives them their rights.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY[${roles.map((role) => `'${role}'`).join(', ')}] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', name);
    END IF;
  END LOOP;
END $$;

${made.join('\n')}
COMMIT;

-- Where the database is there already this statement fails, and nothing is lost: the ones below it are what is needed.
CREATE DATABASE ${quoted};
GRANT CREATE ON DATABASE ${quoted} TO migrator;
GRANT CONNECT ON DATABASE ${quoted} TO ${names};
`
}

/** What PostgreSQL stores of a password (RFC 5803), so that the password itself is never sent or logged. */
function verifierOf(password: string): string {
  const iterations = 4096
  const salt = randomBytes(16)
  const salted = pbkdf2Sync(password, salt, iterations, 32, 'sha256')
  const keyOf = (what: string): Buffer => createHmac('sha256', salted).update(what).digest()
  const stored = createHash('sha256').update(keyOf('Client Key')).digest('base64')
  const server = keyOf('Server Key').toString('base64')
  return `SCRAM-SHA-256$${iterations}:${salt.toString('base64')}$${stored}:${server}`
}
