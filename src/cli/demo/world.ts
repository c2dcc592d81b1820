/**
 * The demo's issuer and upstream, in a thread of their own. The issuer signs any token that is asked for, and the
 * upstream answers with the request that it received. Both listen on loopback and are only for trying dropgate out. A
 * message to the thread ends the streams.
 */
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from 'node:http'
import { parentPort, workerData } from 'node:worker_threads'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'

export interface WorldStart {
  /** URL of the issuer, http on loopback. */
  readonly issuer: string
  readonly audience: string
  /** Origin of the upstream. */
  readonly upstream: string
}

export type WorldReport =
  | { readonly type: 'ready'; readonly token: string }
  | { readonly type: 'failed'; readonly message: string }

const lifetime = '8h'

async function run(start: WorldStart): Promise<string> {
  const { privateKey, publicKey } = await generateKeyPair('ES256')
  const jwk = { ...(await exportJWK(publicKey)), kid: 'demo', alg: 'ES256', use: 'sig' }
  const mint = (subject: string, roles: readonly string[]): Promise<string> =>
    new SignJWT({ roles, client_id: 'demo', sid: `session-of-${subject}` })
      .setProtectedHeader({ alg: 'ES256', kid: 'demo', typ: 'at+jwt' })
      .setIssuer(start.issuer)
      .setAudience(start.audience)
      .setSubject(subject)
      .setJti(crypto.randomUUID())
      .setIssuedAt()
      .setExpirationTime(lifetime)
      .sign(privateKey)

  await listen(start.issuer, (req, res) => {
    const url = new URL(req.url ?? '/', start.issuer)
    if (url.pathname === '/.well-known/openid-configuration') {
      json(res, { issuer: start.issuer, jwks_uri: `${start.issuer}/jwks` })
    } else if (url.pathname === '/jwks') {
      json(res, { keys: [jwk] })
    } else if (url.pathname === '/token') {
      const subject = url.searchParams.get('subject') ?? 'alice'
      const roles = url.searchParams.getAll('role')
      mint(subject, roles.length > 0 ? roles : ['clerk']).then(
        (token) => res.end(`${token}\n`),
        () => res.writeHead(400).end(),
      )
    } else {
      res.writeHead(404).end()
    }
  })
  await listen(start.upstream, (req, res) => {
    if (req.url?.endsWith('/news')) news(res)
    else json(res, { upstream: 'demo', ...seen(req) })
  })
  return await mint('alice', ['clerk'])
}

function seen(req: IncomingMessage): object {
  const { method, url, headers } = req
  return { method, path: url, headers }
}

const streams = new Set<ServerResponse>()

/** Sends a server-sent event every second until the connection or the demo ends. */
function news(res: ServerResponse): void {
  res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
  const tell = (): void => {
    res.write(`data: still open at ${new Date().toISOString()}\n\n`)
  }
  tell()
  const timer = setInterval(tell, 1000)
  streams.add(res)
  res.on('close', () => {
    clearInterval(timer)
    streams.delete(res)
  })
}

parentPort?.on('message', () => {
  for (const res of streams) res.end()
})

function json(res: ServerResponse, value: unknown): void {
  res
    .writeHead(200, { 'content-type': 'application/json' })
    .end(`${JSON.stringify(value, null, 2)}\n`)
}

function listen(origin: string, listener: RequestListener): Promise<void> {
  const { hostname, port } = new URL(origin)
  return new Promise((resolve, reject) => {
    const server = createServer(listener)
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(new Error(`cannot listen on ${hostname}:${port}: ${error.code}`)),
    )
    server.listen(Number(port), hostname, () => resolve())
  })
}

const report = (message: WorldReport): void => parentPort?.postMessage(message)
run(workerData as WorldStart).then(
  (token) => report({ type: 'ready', token }),
  (error: Error) => report({ type: 'failed', message: error.message }),
)
