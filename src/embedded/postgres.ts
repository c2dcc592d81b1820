/**
 * Room: embedded. In: a folder. Out: a PostgreSQL server on loopback, from the binaries of an npm package. Never
 * does: serve other machines. It is for trying dropgate out, for tests and for single machines (`database:
 * embedded`). It starts and stops with the gate; commands find it by its state file.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  closeSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join, resolve } from 'node:path'
import { makeFolder } from '../domain/folder.ts'
import type { Log } from '../domain/log.ts'
import { GateError } from '../errors.ts'
import { connect, withClient } from '../store/connect.ts'
import { migrate } from '../store/migrate.ts'
import { postgresFolder } from './binaries.ts'
import { type EmbeddedUrls, type State, stateFile } from './state.ts'

export interface EmbeddedOptions {
  /** Folder of the database cluster and its state file. */
  readonly directory: string
  readonly schema: string
  readonly rolePrefix: string
  /** Folder of PostgreSQL's programs; those of the npm package when absent. */
  readonly native?: string | undefined
  readonly log: Pick<Log, 'info'>
}

const database = 'dropgate'
const logins = {
  url: 'gate',
  cli_url: 'cli',
  migrate_url: 'migrator',
  breakglass_url: 'breakglass',
} as const
/** User id of the unprivileged system user: PostgreSQL refuses to run as root. */
const unprivileged = 65534

export class EmbeddedPostgres {
  readonly #options: EmbeddedOptions
  #server: ChildProcess | undefined
  #exited: Promise<void> = Promise.resolve()

  constructor(options: EmbeddedOptions) {
    this.#options = options
  }

  /** Creates the cluster if there is none, starts it and migrates it. @throws GateError ERR_DATABASE_EMBEDDED */
  async open(): Promise<EmbeddedUrls> {
    const { schema, rolePrefix, log } = this.#options
    const directory = resolve(this.#options.directory)
    try {
      makeFolder(directory)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      throw new GateError(
        'ERR_DATABASE_EMBEDDED',
        `cannot create the folder ${directory} (${code})`,
        {
          cause: error,
          hint: 'choose another folder in database.embedded, or give the user of the gate write permission',
        },
      )
    }
    const asRoot = process.getuid?.() === 0
    const base = asRoot && !traversable(directory) ? elsewhere(directory) : directory
    const data = join(base, 'data')
    refuseSecond(directory, data)
    const given = this.#options.native ?? postgresFolder()
    const native = asRoot ? reachable(given, base) : given
    const run = { native, asRoot, base }
    if (existsSync(join(data, 'postmaster.pid'))) stopStray(run, data)
    const isNew = !existsSync(join(data, 'PG_VERSION'))
    if (isNew) log.info({ step: 'initdb' }, 'setting PostgreSQL up')
    const secrets = isNew ? initialise(run, data, base) : readSecrets(base)
    const port = await freePort()
    log.info({ step: 'start' }, 'starting PostgreSQL')
    this.#start(run, data, port, base)
    const urlOf = (kind: keyof EmbeddedUrls, name: string = database): string =>
      `postgres://${logins[kind]}:${secrets[kind]}@127.0.0.1:${port}/${name}`
    await this.#answering(urlOf('migrate_url', 'postgres'), base)
    const urls: EmbeddedUrls = {
      url: urlOf('url'),
      cli_url: urlOf('cli_url'),
      migrate_url: urlOf('migrate_url'),
      breakglass_url: urlOf('breakglass_url'),
    }
    await withClient(
      { url: urlOf('migrate_url', 'postgres'), kind: 'embedded' },
      async (client) => {
        const { rows } = await client.query('SELECT FROM pg_database WHERE datname = $1', [
          database,
        ])
        if (rows.length === 0) await client.query(`CREATE DATABASE ${database}`)
      },
    )
    log.info({ step: 'migrate' }, isNew ? 'making tables' : 'checking the tables')
    await migrate(urls.migrate_url, { schema, rolePrefix })
    await makeLogins(urls.migrate_url, rolePrefix, secrets)
    const state: State = { ...urls, gate_pid: process.pid, data }
    writePrivate(stateFile(directory), JSON.stringify(state))
    log.info({ port, data }, 'embedded PostgreSQL is running')
    return urls
  }

  async close(): Promise<void> {
    this.#stop()
    await this.#exited
  }

  #stop(): void {
    rmSync(stateFile(this.#options.directory), { force: true })
    // SIGINT is the fast shutdown of PostgreSQL: it ends all sessions and loses no data.
    this.#server?.kill('SIGINT')
  }

  #start(run: Run, data: string, port: number, base: string): void {
    const out = openSync(join(base, 'postgres.log'), 'a')
    const server = spawn(
      join(run.native, 'bin', 'postgres'),
      [
        ...['-D', data, '-p', String(port), '-h', '127.0.0.1', '-k', ''],
        ...['-c', 'max_connections=64', '-c', 'password_encryption=scram-sha-256'],
      ],
      // Give the server its own session: Ctrl-C in the terminal must reach only the gate, which stops the server last.
      { ...identity(run), detached: true, stdio: ['ignore', out, out] },
    )
    closeSync(out)
    this.#server = server
    // Stop the server however this process ends: by a second Ctrl-C, a closed terminal or an error.
    const leave = (): void => this.#stop()
    process.once('exit', leave)
    this.#exited = new Promise((resolve) => {
      const gone = (): void => {
        process.off('exit', leave)
        resolve()
      }
      server.once('exit', gone)
      server.once('error', gone)
    })
  }

  async #answering(url: string, base: string): Promise<void> {
    let ended = false
    void this.#exited.then(() => {
      ended = true
    })
    const until = Date.now() + 30_000
    for (;;) {
      try {
        const client = await connect({ url, kind: 'embedded' })
        await client.end()
        return
      } catch (error) {
        if (ended || Date.now() > until) {
          await this.close()
          throw new GateError('ERR_DATABASE_EMBEDDED', 'the embedded PostgreSQL did not start', {
            cause: error,
            hint: `read its log ${join(base, 'postgres.log')} for the reason`,
          })
        }
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    }
  }
}

interface Run {
  readonly native: string
  readonly asRoot: boolean
  readonly base: string
}

type Secrets = Record<keyof EmbeddedUrls, string>

function refuseSecond(directory: string, data: string): void {
  let state: State
  try {
    state = JSON.parse(readFileSync(stateFile(directory), 'utf8')) as State
  } catch {
    return
  }
  if (state.gate_pid === process.pid ? state.data === data : !isAlive(state.gate_pid)) return
  throw new GateError(
    'ERR_DATABASE_EMBEDDED',
    `another gate (process ${state.gate_pid}) runs the database in ${directory}`,
    {
      hint: 'stop the other gate, or set database.embedded to another folder for this gate',
    },
  )
}

/** Stops a server that is left from a gate that was killed: it would keep the folder locked. */
function stopStray(run: Run, data: string): void {
  spawnSync(
    join(run.native, 'bin', 'pg_ctl'),
    ['stop', '-D', data, '-m', 'fast', '-w', '-t', '20'],
    identity(run),
  )
}

function initialise(run: Run, data: string, base: string): Secrets {
  rmSync(data, { recursive: true, force: true })
  const secrets = newSecrets()
  const passwords = join(base, 'initdb.password')
  writePrivate(passwords, secrets.migrate_url)
  mkdirSync(data, { mode: 0o700 })
  if (run.asRoot) for (const path of [data, passwords]) chownSync(path, unprivileged, unprivileged)
  const done = spawnSync(
    join(run.native, 'bin', 'initdb'),
    [
      ...['-D', data, '-U', logins.migrate_url, '--pwfile', passwords, '--auth=scram-sha-256'],
      ...['--encoding=UTF8', '--locale=C', '--no-sync', '--no-instructions'],
    ],
    { ...identity(run), encoding: 'utf8' },
  )
  rmSync(passwords)
  if (done.status !== 0) {
    rmSync(data, { recursive: true, force: true })
    throw new GateError('ERR_DATABASE_EMBEDDED', 'the embedded PostgreSQL cannot be set up', {
      cause: done.error ?? done.stderr,
      hint: `${String(done.error ?? done.stderr)
        .trim()
        .split('\n')
        .at(-1)}`,
    })
  }
  writePrivate(join(base, 'secrets.json'), JSON.stringify(secrets))
  return secrets
}

function newSecrets(): Secrets {
  return {
    url: secret(),
    cli_url: secret(),
    migrate_url: secret(),
    breakglass_url: secret(),
  }
}

function readSecrets(base: string): Secrets {
  try {
    const stored = JSON.parse(readFileSync(join(base, 'secrets.json'), 'utf8')) as Partial<Secrets>
    // A cluster from before the break-glass login has no password for it yet.
    const secrets = { ...newSecrets(), ...stored }
    writePrivate(join(base, 'secrets.json'), JSON.stringify(secrets))
    return secrets
  } catch (error) {
    throw new GateError(
      'ERR_DATABASE_EMBEDDED',
      `the passwords of the database in ${base} cannot be read`,
      {
        cause: error,
        hint: 'move the folder away; the gate creates a new database at the next start',
      },
    )
  }
}

async function makeLogins(url: string, prefix: string, secrets: Secrets): Promise<void> {
  const groups = {
    url: ['gate'],
    cli_url: ['revoker', 'lifter'],
    breakglass_url: ['breakglass', 'lifter'],
  } as const
  await withClient({ url, kind: 'embedded' }, async (client) => {
    for (const kind of ['url', 'cli_url', 'breakglass_url'] as const) {
      const login = logins[kind]
      const { rows } = await client.query('SELECT FROM pg_roles WHERE rolname = $1', [login])
      if (rows.length === 0)
        await client.query(`CREATE ROLE ${login} LOGIN PASSWORD '${secrets[kind]}'`)
      for (const group of groups[kind]) await client.query(`GRANT ${prefix}${group} TO ${login}`)
    }
  })
}

function identity(run: Run): { uid?: number; gid?: number; cwd: string; env: NodeJS.ProcessEnv } {
  // Pass no variables of the caller: PGDATA, PGPORT and locale variables would change what the server does.
  const env = { PATH: process.env.PATH ?? '', LC_ALL: 'C' }
  const cwd = run.base
  return run.asRoot ? { uid: unprivileged, gid: unprivileged, cwd, env } : { cwd, env }
}

/** Returns true if a process of another user can enter every folder on the way to this one. */
function traversable(path: string): boolean {
  for (let at = path; ; at = dirname(at)) {
    if ((statSync(at).mode & 0o001) === 0) return false
    if (dirname(at) === at) return true
  }
}

function elsewhere(directory: string): string {
  const name = createHash('sha256').update(directory).digest('hex').slice(0, 16)
  const base = join('/var/tmp', `dropgate-${name}`)
  mkdirSync(base, { recursive: true })
  // In a folder that all users may write to, accept only a folder that this user created, and no link to one.
  const found = lstatSync(base)
  if (!found.isDirectory() || found.uid !== 0 || (found.mode & 0o022) !== 0) {
    throw new GateError('ERR_DATABASE_EMBEDDED', `${base} belongs to another user`, {
      hint: 'set database.embedded to a folder that other users can reach',
    })
  }
  chmodSync(base, 0o711)
  return base
}

/** Returns a folder with the binaries that the unprivileged user can read. */
function reachable(native: string, base: string): string {
  if (traversable(native)) return native
  const copy = join(base, 'postgresql')
  if (!existsSync(copy)) {
    const half = `${copy}.new`
    rmSync(half, { recursive: true, force: true })
    cpSync(native, half, { recursive: true, verbatimSymlinks: true })
    renameSync(half, copy)
  }
  return copy
}

function writePrivate(path: string, text: string): void {
  rmSync(path, { force: true })
  writeFileSync(path, text, { mode: 0o600, flag: 'wx' })
}

function secret(): string {
  return randomBytes(18).toString('hex')
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}
