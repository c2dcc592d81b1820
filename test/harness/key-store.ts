/** A store of keys for one issuer, over real sockets, and a site that plays the issuer. */
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type RequestListener, type Server } from 'node:http'
import { createServer as createTlsServer, type ServerOptions } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readConfig } from '../../src/config/load.ts'
import type { KeySet } from '../../src/identity/key-set.ts'
import { KeyStore } from '../../src/identity/keys.ts'
import { fetchDocument } from '../../src/outbound/fetch.ts'

export interface Made {
  readonly store: KeyStore
  readonly sets: KeySet[]
  readonly logged: string[]
}

/** @param issuer Its part of the configuration. */
export async function openKeyStore(issuer: object, folder = newFolder()): Promise<Made> {
  const sets: KeySet[] = []
  const logged: string[] = []
  const written = {
    database: { url: 'postgres://gate@127.0.0.1/gate' },
    issuers: [{ audience: ['api'], algorithms: ['ES256', 'RS256'], ...issuer }],
    routes: [{ name: 'a', upstream: 'http://127.0.0.1:1' }],
  }
  const store = new KeyStore({
    issuers: readConfig(JSON.stringify(written), '.', {}).issuers,
    fetchDocument,
    folder,
    onChange: (set) => sets.push(set),
    log: {
      info: (_fields, message) => logged.push(message),
      warn: (fields, message) => logged.push(`${message} ${JSON.stringify(fields)}`),
    },
  })
  await store.open()
  t.teardown(() => store.close())
  return { store, sets, logged }
}

export function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-keys-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** @returns the origin of a server at 127.0.0.1, by https where it has a certificate */
export async function openSite(
  listener: RequestListener,
  { tls, host = '127.0.0.1' }: { tls?: ServerOptions; host?: string } = {},
): Promise<string> {
  const server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener)
  const { port } = await listening(server, host)
  // The name is in the certificates of the tests.
  return tls === undefined ? `http://127.0.0.1:${port}` : `https://localhost:${port}`
}

export async function listening(server: Server, host = '127.0.0.1'): Promise<AddressInfo> {
  await new Promise<void>((resolve) => server.listen(0, host, resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return server.address() as AddressInfo
}
