/** TLS on both sides: who may be spoken to, who is, and by which name. */
import { request } from 'node:https'
import { connect } from 'node:net'
import { Duplex } from 'node:stream'
import { connect as connectTls, createServer, type Server, type TLSSocket } from 'node:tls'
import t from 'tap'
import { fileOf, pair, pemOf, thumbprint } from '../harness/certificates.ts'
import { TestGate } from '../harness/gate.ts'
import { until } from '../harness/wait.ts'

interface Upstream {
  readonly port: number
  readonly names: (string | false | null)[]
  readonly subjects: (string | undefined)[]
}
const servers: Server[] = []

/** A TLS server that answers every request and notes whom it was asked for, and who asked. */
async function upstream(certificate: string): Promise<Upstream> {
  const seen: Upstream = { port: 0, names: [], subjects: [] }
  const server = createServer({
    ...pair(certificate),
    requestCert: true,
    rejectUnauthorized: false,
  })
  server.on('secureConnection', (socket: TLSSocket) => {
    seen.names.push(socket.servername)
    seen.subjects.push(socket.getPeerX509Certificate()?.subject)
    socket.on('error', () => {})
    socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok'))
  })
  server.on('tlsClientError', () => {})
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return Object.assign(seen, { port: (server.address() as { port: number }).port })
}
const [good, stranger] = [await upstream('server'), await upstream('impostor')]
t.teardown(() => {
  for (const server of servers) server.close()
})

const open = { auth: 'none', labels: { visibility: 'public' } }
const ca = fileOf('authority.pem')
const to = (name: string, origin: string, tls?: object) => ({
  ...open,
  name,
  path: `/public/${name}`,
  upstream: origin,
  ...(tls === undefined ? {} : { tls }),
})
const tls = { cert: fileOf('server.pem'), key: fileOf('server.key') }
const gate = await TestGate.start({
  config: {
    workers: 1,
    listen: [
      { host: '127.0.0.1', port: 0, tls },
      { host: '127.0.0.1', port: 0, tls: { ...tls, client_ca: ca } },
      { host: '127.0.0.1', port: 0, tls: { ...tls, client_ca: ca, client_cert: 'optional' } },
      { host: '127.0.0.1', port: 0, tls, trusted_proxies: ['127.0.0.1'], proxy_protocol: 'required' },
    ],
  },
  routes: [
    to('plain', 'http://127.0.0.1:1', undefined),
    to('good', `https://localhost:${good.port}`, { ca }),
    to('address', `https://127.0.0.1:${good.port}`, { ca }),
    to('named', `https://127.0.0.1:${good.port}`, { ca, server_name: 'api.example' }),
    to('misnamed', `https://localhost:${good.port}`, { ca, server_name: 'evil.example' }),
    to('unknown', `https://localhost:${good.port}`),
    to('stranger', `https://localhost:${stranger.port}`, { ca }),
    to('mutual', `https://localhost:${good.port}`, { ca, cert: fileOf('client.pem'), key: fileOf('client.key') }),
    { ...open, name: 'other', host: 'other.example', path: '/public', upstream: `https://localhost:${good.port}`, tls: { ca } },
    { ...open, name: 'echo', path: '/public/echo' },
  ],
}) // biome-ignore format: a table
t.teardown(() => gate.stop())
const ports = gate.gate.address().ports as [number, number, number, number]
const [port, required, optional, proxied] = ports

interface Asked {
  readonly status: number
  readonly code: string | undefined
}

function ask(path: string, over: object = {}): Promise<Asked> {
  return new Promise((resolve, reject) => {
    const options = {
      host: '127.0.0.1',
      port,
      path,
      ca: pemOf('authority.pem'),
      servername: 'localhost',
      agent: false,
      ...over,
    }
    const req = request(options, (res) => {
      let body = ''
      res.on('data', (data) => {
        body += data
      })
      res.on('end', () => {
        const { code } = body.startsWith('{') ? JSON.parse(body) : { code: undefined }
        resolve({ status: res.statusCode!, code })
      })
      res.on('error', reject)
    })
    req.on('error', reject)
    req.end()
  })
}

t.test('the authority and the name of an upstream are always verified', async (t) => {
  t.equal((await ask('/public/good')).status, 200)
  t.equal((await ask('/public/address')).status, 200)
  t.equal((await ask('/public/named')).status, 200)
  for (const path of ['misnamed', 'unknown', 'stranger'])
    t.match(await ask(`/public/${path}`), { status: 502, code: 'ERR_UPSTREAM_UNREACHABLE' }, path)
})

t.test(
  "the name that is verified is the configuration's, whatever Host the client sends",
  async (t) => {
    good.names.length = 0
    for (const host of ['evil.example', 'api.example', '127.0.0.1'])
      t.equal((await ask('/public/good', { headers: { host } })).status, 200, host)
    for (const name of good.names) t.equal(name, 'localhost')
    t.equal(good.names.length <= 1, true, 'and one connection serves them all')
  },
)

t.test('a client certificate goes to the upstream that it is for, and to no other', async (t) => {
  good.subjects.length = 0
  t.equal((await ask('/public/mutual')).status, 200)
  t.match(good.subjects, ['CN=client'])
  t.equal((await ask('/public/good')).status, 200)
  t.notOk(good.subjects.slice(1).some((subject) => subject !== undefined))
})

t.test('a request over TLS is https to policy and upstream', async (t) => {
  t.equal((await ask('/public/echo')).status, 200)
  const seen = gate.upstream.seen.at(-1)!
  t.match(Object.fromEntries(seen.headers), { 'x-forwarded-proto': 'https' })
  const id = Object.fromEntries(seen.headers)['x-dropgate-decision-id']
  await until('the record', () => gate.log.some((event) => event.decision_id === id))
  t.match(gate.log.find((event) => event.decision_id === id)!.input, {
    attributes: { request: { http: { scheme: 'https' } } },
  })
})

t.test('a connection made for one name does not reach the routes of another', async (t) => {
  const other = { headers: { host: 'other.example' } }
  t.equal((await ask('/public', { ...other, servername: 'other.example' })).status, 200)
  t.match(await ask('/public', { ...other, servername: 'api.example' }), {
    status: 421,
    code: 'ERR_HOST_UNKNOWN',
  })
  t.equal(
    (await ask('/public/good', { headers: { host: 'a.example' }, servername: 'api.example' }))
      .status,
    200,
  )
})

t.test(
  'clients show a certificate where one is required; a bad one is never as good as none',
  async (t) => {
    const client = pair('client')
    const bad = pair('impostor')
    t.equal((await ask('/public/good', { port: required, ...client })).status, 200)
    await t.rejects(ask('/public/good', { port: required }))
    await t.rejects(ask('/public/good', { port: required, ...bad }))
    t.equal((await ask('/public/good', { port: optional })).status, 200)
    t.equal((await ask('/public/good', { port: optional, ...client })).status, 200)
    await t.rejects(ask('/public/good', { port: optional, ...bad }))
  },
)

t.test('old TLS, plain text and other protocols are refused', async (t) => {
  await t.rejects(ask('/public/good', { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1' }))
  t.equal(await gate.raw('GET /public/good HTTP/1.1\r\nHost: a\r\n\r\n'), '')
})

t.test(
  'a row that names a client certificate denies the client that shows it, and no other',
  async (t) => {
    const client = pair('client')
    const revoker = await gate.revoker()
    const { rows } = await revoker.query(
      'INSERT INTO dropgate.revocations (client_cert) VALUES ($1) RETURNING id',
      [thumbprint('client')],
    )
    const token = await gate.issuer.token('alice')
    const headers = { authorization: `Bearer ${token}` }
    await until('denied', async () => {
      const { code } = await ask('/public/good', { port: required, ...client })
      return code === 'ERR_PEER_REVOKED'
    })
    t.match(await ask('/public/good', { port: optional, ...client, headers }), { status: 403 })
    t.equal((await ask('/public/good', { port: optional, headers })).status, 200)
    await revoker.query('DELETE FROM dropgate.revocations WHERE id = $1', [rows[0].id])
    await until('allowed', async () => {
      return (await ask('/public/good', { port: required, ...client })).status === 200
    })
  },
)

t.test(
  'behind a load balancer the handshake may come with its header, in any pieces',
  async (t) => {
    const header = Buffer.from('PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n')
    for (const cut of [0, 5, header.length - 1, header.length, header.length + 100, 1 << 20]) {
      const under = connect(proxied, '127.0.0.1')
      under.setNoDelay()
      let ahead: Buffer | undefined = header
      // TLS writes past the streams of a socket; what it says first must leave with the header.
      const pipe = new Duplex({
        read: () => {},
        write: (chunk: Buffer, _encoding, done) => {
          const bytes = ahead === undefined ? chunk : Buffer.concat([ahead, chunk])
          const at = ahead === undefined ? bytes.length : cut
          ahead = undefined
          under.write(bytes.subarray(0, at))
          setTimeout(
            () => under.write(bytes.subarray(at), () => done()),
            at < bytes.length ? 20 : 0,
          )
        },
      })
      under.on('data', (data) => pipe.push(data))
      under.on('close', () => pipe.push(null))
      under.on('error', () => {})
      const secure = connectTls({
        socket: pipe,
        ca: pemOf('authority.pem'),
        servername: 'localhost',
      })
      t.teardown(() => under.destroy())
      let answer = ''
      secure.on('error', () => {})
      secure.on('data', (data) => {
        answer += data.toString('latin1')
      })
      secure.write('GET /public/echo HTTP/1.1\r\nHost: a\r\n\r\n')
      await until(`an answer, cut at ${cut}`, () => answer.includes('\r\n\r\n'))
      t.match(answer, /^HTTP\/1\.1 200/)
      t.match(Object.fromEntries(gate.upstream.seen.at(-1)!.headers), {
        'x-forwarded-for': '198.51.100.7',
      })
      under.destroy()
    }
  },
)
