/**
 * A cluster whose history can be broken: its server is killed, crashes, is put back from a copy, or gives way to a standby
 * that lacks the newest commits. Proxies lead to the server that is in service.
 */
import { readFileSync, readlinkSync, rmSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import type pg from 'pg'
import { type Cluster, type PostgresProxy, startPostgres } from './postgres.ts'
import { Server } from './server.ts'
import { until } from './wait.ts'

/** How far a server had come: what it gives out later is beyond that. */
export interface Position {
  readonly xid: bigint
  readonly lsn: string
}

export class FaultyCluster {
  /** For gates: its URLs lead to the server in service. */
  readonly cluster: Cluster
  readonly proxies: PostgresProxy[] = []
  /** Changes when a fault begins and when it is over: commits that were seen before may be gone, and removals undone. */
  history = 0
  /** A fault is under way. */
  breaking = false
  server: Server
  /** A cold copy of some time ago. */
  keptCopy: string | undefined
  readonly #folder: string
  #folders = 0
  readonly #made: Server[] = []

  readonly #leave = (): void =>
    rmSync(dirname(this.#folder), { recursive: true, force: true, maxRetries: 5 })

  private constructor(cluster: Cluster, server: Server) {
    this.cluster = cluster
    this.server = server
    this.#folder = server.data
  }

  static async start(): Promise<FaultyCluster> {
    const cluster = await startPostgres()
    const client = await cluster.client('migrate_url')
    const { rows } = await client.query("SELECT current_setting('data_directory') AS data")
    const { data } = rows[0] as { data: string }
    const pid = readFileSync(`${data}/postmaster.pid`, 'utf8').split('\n', 1)[0]
    const { uid, gid } = statSync(data)
    const urls = { url: cluster.url, cli_url: cluster.cli_url, migrate_url: cluster.migrate_url }
    const server = new Server(
      {
        ...{ binary: readlinkSync(`/proc/${pid}/exe`), uid, gid },
        urlOf: (login, port) => {
          const url = new URL(urls[login])
          url.port = String(port)
          return url.href
        },
      },
      data,
    )
    // From here on it runs as this harness wants it to run.
    await cluster.stop()
    const faulty = new FaultyCluster(cluster, server)
    process.once('exit', faulty.#leave)
    await server.start()
    faulty.#lead()
    return faulty
  }

  connect(): Promise<pg.Client> {
    return this.server.connect()
  }

  /** One process is killed: the server ends all others and recovers from its log. */
  async killOne(random: () => number): Promise<void> {
    const witness = await this.connect()
    let ended = false
    witness.once('end', () => {
      ended = true
    })
    // Others end often enough by themselves; the server goes on without them.
    const { rows } = await witness.query(
      `SELECT pid FROM pg_stat_activity
       WHERE backend_type IN ('client backend', 'checkpointer', 'background writer', 'walwriter') ORDER BY pid`,
    )
    process.kill(rows[Math.floor(random() * rows.length)].pid, 'SIGKILL')
    // Before that a new session would still be let in, and ended with the others.
    await until('every session is ended', () => ended)
    await this.server.answers()
  }

  /** @returns the folder of a copy of the server in service, stopped in order for that and started again */
  async coldCopy(): Promise<string> {
    await this.server.stop('fast')
    const folder = this.#newFolder()
    this.server.copyTo(folder)
    await this.server.start()
    return folder
  }

  /** @returns the folder of a copy of the server in service while it runs */
  hotCopy(): string {
    const folder = this.#newFolder()
    this.server.copyTo(folder)
    return folder
  }

  /** @returns the folder of a copy of a copy */
  copyOf(folder: string): string {
    const another = this.#newFolder()
    new Server(this.server.installation, folder).copyTo(another)
    return another
  }

  /** Not started. */
  serverOn(folder: string): Server {
    const server = new Server(this.server.installation, folder)
    this.#made.push(server)
    return server
  }

  /** A standby of a cold copy; it follows the server in service, or has only what the copy has. */
  async standby(folder: string, follows: 'streams' | 'lags'): Promise<Server> {
    const standby = this.serverOn(folder)
    standby.followAtStart(follows === 'streams' ? this.server : undefined)
    await standby.start()
    if (follows === 'streams') {
      await until('the standby streams', async () => {
        const rows = await this.server.ask(
          "SELECT FROM pg_stat_replication WHERE state = 'streaming'",
        )
        return rows.length > 0
      })
    }
    return standby
  }

  /** A standby takes the place of the server in service, which is ended before. */
  async promote(standby: Server, ending: 'killed' | 'in order' = 'killed'): Promise<void> {
    if (ending === 'in order') await this.server.stop('fast')
    else await this.server.kill()
    await standby.ask('SELECT pg_promote()')
    await this.#replaceBy(standby)
  }

  /** A copy takes the place of the server in service. */
  async putBack(folder: string): Promise<void> {
    await this.server.kill()
    const copy = this.serverOn(folder)
    await copy.start()
    await this.#replaceBy(copy)
  }

  async position(): Promise<Position> {
    const [row] = await this.server.ask(
      'SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS xid, pg_current_wal_insert_lsn()::text AS lsn',
    )
    return { xid: BigInt(row!.xid as string), lsn: row!.lsn as string }
  }

  /** Uses up ids, and leaves nothing in the log that would be written out. */
  async burn(ids: number): Promise<void> {
    await this.server.ask(burning(`FOR i IN 1..${ids}`))
  }

  /** Uses up ids and log until both are beyond a position. */
  async outrun({ xid, lsn }: Position): Promise<void> {
    const client = await this.connect()
    try {
      await client.query(
        burning(`WHILE pg_snapshot_xmax(pg_current_snapshot())::text::bigint < ${xid}`),
      )
      await client.query(
        `DO $$ BEGIN WHILE pg_current_wal_insert_lsn() <= '${lsn}'::pg_lsn LOOP
           PERFORM pg_logical_emit_message(false, 'outrun', repeat('x', 50000)); END LOOP; END $$`,
      )
    } finally {
      await client.end().catch(() => {})
    }
  }

  /** What was seen before the fault, and what was said of it, says nothing of the time after it. */
  async breakBy(strike: () => Promise<void>): Promise<void> {
    this.history++
    this.breaking = true
    await strike()
    await this.#forgetReceipts()
    this.breaking = false
    this.history++
  }

  /** A receipt was true in the history in which it was given; a row of that name may be another one now, or back again. */
  async #forgetReceipts(): Promise<void> {
    await this.server.ask('DELETE FROM dropgate.receipts')
  }

  async close(): Promise<void> {
    for (const server of [this.server, ...this.#made]) await server.remove()
    await this.cluster.close()
    process.off('exit', this.#leave)
  }

  async #replaceBy(server: Server): Promise<void> {
    const former = this.server
    this.server = server
    // Before a gate can see them, or it would not give its own.
    await this.#forgetReceipts()
    this.#lead()
    await former.remove()
  }

  #lead(): void {
    const { installation, port } = this.server
    for (const login of ['url', 'cli_url', 'migrate_url'] as const)
      Object.assign(this.cluster, { [login]: installation.urlOf(login, port) })
    for (const proxy of this.proxies) proxy.lead(this.cluster.url)
  }

  #newFolder(): string {
    return `${this.#folder}-${++this.#folders}`
  }
}

function burning(loop: string): string {
  return `DO $$ BEGIN ${loop} LOOP PERFORM pg_current_xact_id(); ROLLBACK; END LOOP; END $$`
}
