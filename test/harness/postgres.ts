/** A real PostgreSQL of its own for a test file, and a proxy in front of it that can go wrong on purpose. */
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { EmbeddedPostgres, type EmbeddedUrls } from '../../src/store/embedded.ts'

export interface Cluster extends EmbeddedUrls {
  client(login: keyof EmbeddedUrls): Promise<pg.Client>
  close(): Promise<void>
}

export async function startPostgres(): Promise<Cluster> {
  const directory = mkdtempSync(join(tmpdir(), 'dropgate-test-'))
  const server = new EmbeddedPostgres({
    directory,
    schema: 'dropgate',
    rolePrefix: 'dropgate_',
    log: { info: () => {} },
  })
  const urls = await server.open()
  const clients: pg.Client[] = []
  return {
    ...urls,
    async client(login) {
      const client = new pg.Client(urls[login])
      client.on('error', () => {})
      await client.connect()
      clients.push(client)
      return client
    },
    async close() {
      await Promise.all(clients.map((client) => client.end().catch(() => {})))
      await server.close()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

/** Between a client and PostgreSQL: may drop every notification, cut all connections, refuse new ones, fall silent. */
export class PostgresProxy {
  dropNotifications = false
  refusing = false
  silent = false
  dropped = 0
  readonly #sockets = new Set<Socket>()
  #server: Server | undefined

  async open(url: string): Promise<string> {
    const target = new URL(url)
    const serverPort = Number(target.port)
    this.#server = createServer((client) => {
      if (this.refusing) {
        client.destroy()
        return
      }
      const server = connect(serverPort, target.hostname)
      for (const socket of [client, server]) {
        this.#sockets.add(socket)
        socket.on('error', () => {})
        socket.on('close', () => {
          this.#sockets.delete(socket)
          client.destroy()
          server.destroy()
        })
      }
      client.on('data', (data) => {
        if (!this.silent) server.write(data)
      })
      let rest: Buffer = Buffer.alloc(0)
      server.on('data', (data) => {
        if (this.silent) return
        rest = Buffer.concat([rest, data])
        // Every message of the server is a kind byte and a length that counts itself.
        let at = 0
        while (rest.length >= at + 5) {
          const end = at + 1 + rest.readInt32BE(at + 1)
          if (rest.length < end) break
          if (this.dropNotifications && rest[at] === 0x41) this.dropped++
          else client.write(rest.subarray(at, end))
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

  cut(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  close(): void {
    this.cut()
    this.#server?.close()
  }
}
