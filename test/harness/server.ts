/** One PostgreSQL server on a data folder of its own: started, stopped, killed and copied as a whole. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { appendFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { freePort, withChildren } from '../bench/machine.ts'
import { until } from './wait.ts'

/** What all servers of one cluster have in common. */
export interface Installation {
  /** Path of the program `postgres`. */
  readonly binary: string
  readonly uid: number
  readonly gid: number
  /** A URL of the login on the server that listens on this port. */
  readonly urlOf: (login: 'url' | 'cli_url' | 'migrate_url', port: number) => string
}

/**
 * Only a commit that waits for it writes the log out, so that a crash loses as much as it can. Without fsync: a process
 * that is killed loses nothing that it has handed to the kernel.
 */
const settings = [
  ...['-c', 'wal_writer_delay=10s', '-c', 'fsync=off', '-c', 'max_connections=64'],
  ...['-c', 'shared_buffers=16MB', '-c', 'min_wal_size=32MB', '-c', 'max_wal_size=256MB'],
]

export class Server {
  readonly data: string
  readonly installation: Installation
  port = 0
  #process: ChildProcess | undefined
  #exited: Promise<void> = Promise.resolve()
  readonly #leave = (): void => this.#killAll()

  constructor(installation: Installation, data: string) {
    this.installation = installation
    this.data = data
  }

  /** Starts the server and waits until it answers. */
  async start(): Promise<void> {
    const { binary, uid, gid } = this.installation
    this.port ||= await freePort()
    const { data, port } = this
    const own = ['-D', data, '-p', String(port), '-h', '127.0.0.1', '-k', '']
    // In a session of its own, so that Ctrl-C reaches only the test, which stops it.
    const server = spawn(binary, [...own, ...settings], {
      ...{ uid, gid, cwd: data, env: { LC_ALL: 'C' }, stdio: 'ignore', detached: true },
    })
    this.#process = server
    process.once('exit', this.#leave)
    this.#exited = new Promise((resolve) => {
      server.once('error', () => resolve())
      server.once('exit', () => {
        process.off('exit', this.#leave)
        resolve()
      })
    })
    await this.answers()
  }

  async answers(): Promise<void> {
    await until('the server answers', async () => {
      if (!this.#running) throw new Error('the server has ended')
      const client = new pg.Client(this.installation.urlOf('migrate_url', this.port))
      client.on('error', () => {})
      try {
        await client.connect()
        await client.end()
        return true
      } catch {
        return false
      }
    })
  }

  async connect(login: 'url' | 'cli_url' | 'migrate_url' = 'migrate_url'): Promise<pg.Client> {
    const client = new pg.Client(this.installation.urlOf(login, this.port))
    client.on('error', () => {})
    await client.connect()
    return client
  }

  /** Runs one statement as the owner. */
  async ask(sql: string): Promise<Record<string, unknown>[]> {
    const client = await this.connect()
    try {
      return (await client.query(sql)).rows as Record<string, unknown>[]
    } finally {
      await client.end().catch(() => {})
    }
  }

  /** @param mode In order (fast), or as a crash that the server itself brings about (immediate). */
  async stop(mode: 'fast' | 'immediate'): Promise<void> {
    this.#process?.kill(mode === 'fast' ? 'SIGINT' : 'SIGQUIT')
    await this.#exited
  }

  /** All processes of the server are killed before one of them can do anything about it. */
  async kill(): Promise<void> {
    const children = this.children()
    this.#killAll()
    await this.#exited
    // Its shared memory is free once they are gone.
    await until('its processes are gone', () => children.every(isGone))
  }

  /** The ids of its processes but the first. */
  children(): number[] {
    const pid = this.#process?.pid
    return pid === undefined ? [] : [...withChildren([pid])].filter((each) => each !== pid)
  }

  /** Copies the data folder: of a server that is stopped, or of one that stands still meanwhile, as a disk snapshot does. */
  copyTo(folder: string): void {
    const processes = this.#running ? [this.#process!.pid!, ...this.children()] : []
    for (const pid of processes) signal(pid, 'SIGSTOP')
    try {
      spawnSync('cp', ['-a', '--reflink=auto', this.data, folder])
    } finally {
      for (const pid of processes.reverse()) signal(pid, 'SIGCONT')
    }
    rmSync(join(folder, 'postmaster.pid'), { force: true })
  }

  /** Before its start: it will follow that server, or (undefined) only its own log. */
  followAtStart(primary: Server | undefined): void {
    writeFileSync(join(this.data, 'standby.signal'), '')
    this.#followFrom(primary)
  }

  /** A running standby gets no more of the log. */
  stopFollowing(): void {
    this.#followFrom(undefined)
    this.#process?.kill('SIGHUP')
  }

  #followFrom(primary: Server | undefined): void {
    const from = primary?.installation.urlOf('migrate_url', primary.port) ?? ''
    appendFileSync(join(this.data, 'postgresql.auto.conf'), `primary_conninfo = '${from}'\n`)
  }

  /** The end of the server and of its folder. */
  async remove(): Promise<void> {
    this.#killAll()
    await this.#exited
    rmSync(this.data, { recursive: true, force: true, maxRetries: 5 })
  }

  get #running(): boolean {
    return this.#process?.exitCode === null && this.#process.signalCode === null
  }

  #killAll(): void {
    if (!this.#running) return
    const pid = this.#process!.pid!
    // Stopped first: it must start no process anew while they are killed one by one.
    signal(pid, 'SIGSTOP')
    for (const child of this.children()) signal(child, 'SIGKILL')
    signal(pid, 'SIGKILL')
  }
}

/** Also when only its parent has not asked for its end yet. */
function isGone(pid: number): boolean {
  try {
    return /^.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return true
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // It has ended meanwhile.
  }
}
