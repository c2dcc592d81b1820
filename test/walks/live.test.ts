/** What is open ends when a row, the clock, the feed or a policy says so, on both sides; nothing else does. */

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import type pg from 'pg'
import t from 'tap'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { raceRows } from '../harness/race.ts'
import { type Kind, kinds, OpenStream, type Served, StreamUpstream } from '../harness/streams.ts'
import { until } from '../harness/wait.ts'

const upstream = new StreamUpstream()
await upstream.open()
const gate = await TestGate.start({
  issuer: { claims: { tenant: '/tid' } },
  config: {
    workers: 1,
    // A busy machine is no reason here to refuse a request.
    limits: { max_lag: '60s' },
    revocation: { max_staleness: '30s', cut_after: '60s' },
  },
  routes: [
    { name: 'orders', path: '/orders', upstream: upstream.origin, max_connections: 2000 },
    { name: 'lenient', path: '/orders/lenient', upstream: upstream.origin, on_expiry: 'let-finish' },
    { name: 'aged', path: '/orders/aged', upstream: upstream.origin, limits: { age: '600ms' } },
    { name: 'counted', path: '/orders/counted', upstream: upstream.origin, limits: { bytes: '1KiB' } },
    { name: 'reports', path: '/reports' },
    { name: 'idle', path: '/orders/idle', upstream: upstream.origin, limits: { idle: '400ms' } },
  ],
}) // biome-ignore format: a table
const revoker = await gate.revoker()
t.teardown(async () => {
  await gate.stop()
  upstream.close()
})

let count = 0
async function hold(
  kind: Kind,
  subject: string,
  options: { claims?: object; delay?: number; path?: string } = {},
): Promise<OpenStream> {
  const token = await gate.issuer.token(subject, {
    claims: { roles: ['manager'], ...options.claims },
  })
  return new OpenStream(kind, `${subject}-${count++}`, gate.port, token, options)
}

async function insert(client: pg.Client, columns: Record<string, unknown>): Promise<string> {
  const names = Object.keys(columns)
  const { rows } = await client.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()}) RETURNING id`,
    Object.values(columns),
  )
  return rows[0].id
}

/** The record of the end of what the upstream knows by this name. */
async function endOf(held: OpenStream): Promise<Record<string, string | number>> {
  let found: Record<string, string | number> | undefined
  await until(`the record of ${held.name}`, () => {
    const admitted = gate.log.find(({ input }) =>
      JSON.stringify(input?.parsed_query ?? {}).includes(`"${held.name}"`),
    )
    found = gate.log.find(
      ({ decision_id, custom }) =>
        decision_id === admitted?.decision_id && custom.ended !== undefined,
    )?.custom
    return found !== undefined
  })
  return found!
}

const wayOfCut = (kind: Kind, code: number) => (kind === 'websocket' ? code : 'cut')
const wayOfAbort = (kind: Kind, code: number) => (kind === 'websocket' ? code : 'abort')

t.test('a client that has sent all and got nothing yet is told why a row refuses it', async (t) => {
  const mine = await hold('chunks', 'early', { delay: 3000 })
  await until('it is under way', () => upstream.served.has(mine.name))
  await insert(revoker, { subject: 'early' })
  await until('cut', () => mine.ended !== undefined)
  t.same([mine.status, mine.ended], [401, 'end'])
  await until('the upstream knows', () => upstream.served.get(mine.name)!.ended === 'abort')
  t.match(await endOf(mine), { decision: 'cut', ended: 'revoked' })
})

t.test('a cut answer never looks complete to a client of HTTP/1.0', async (t) => {
  const token = await gate.issuer.token('old', { claims: { roles: ['manager'] } })
  const socket = connect(gate.port, '127.0.0.1')
  socket.write(
    `GET /orders/chunks?n=old HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer ${token}\r\n\r\n`,
  )
  let code: string | undefined
  socket.on('error', (error: NodeJS.ErrnoException) => {
    code = error.code
  })
  await once(socket, 'data')
  socket.resume()
  const closed = new Promise((resolve) => socket.once('close', resolve))
  await insert(revoker, { subject: 'old' })
  await closed
  t.equal(code, 'ECONNRESET')
})

/** How the upstream saw it end, once it has. */
async function abortOf(held: OpenStream): Promise<Served['ended']> {
  const served = upstream.served.get(held.name)!
  await until(`${held.name} ends at the upstream`, () => served.ended !== undefined)
  return served.ended
}

for (const kind of kinds) {
  t.test(`a row ends the ${kind} of its subject on both sides, and no other`, async (t) => {
    const mine = await hold(kind, `alice-${kind}`)
    const other = await hold(kind, `bob-${kind}`)
    await until('both are under way', () => mine.under(upstream) && other.under(upstream))
    const id = await insert(revoker, { subject: `alice-${kind}`, reason: 'test' })
    await until('cut', () => mine.ended !== undefined)
    t.equal(mine.ended, wayOfCut(kind, 1008))
    t.equal(await abortOf(mine), wayOfAbort(kind, 1008))
    t.equal(mine.got.wrongAt, -1, 'what came was right')
    const end = await endOf(mine)
    t.match(end, { decision: 'cut', ended: 'revoked', revocation: Number(id), subject: `alice-${kind}` })
    t.ok(Number(end.cut_after_ms) >= 0 && Number(end.cut_after_ms) < 1000, `after ${end.cut_after_ms} ms`)
    const [bytes, seen] = [mine.got.bytes, upstream.served.get(mine.name)!.got.bytes]
    t.ok(Number(end.bytes_out) >= bytes, `${end.bytes_out} out, ${bytes} came`)
    t.ok(Number(end.bytes_in) >= seen, `${end.bytes_in} in, ${seen} came`)
    const before = other.got.bytes + upstream.served.get(other.name)!.got.bytes
    await until(
      'the bystander goes on',
      () => other.got.bytes + upstream.served.get(other.name)!.got.bytes > before + 5000 || kind === 'events',
    )
    t.equal(other.ended, undefined)
    t.same([other.got.wrongAt, upstream.served.get(other.name)!.got.wrongAt], [-1, -1])
    other.stop()
  })
} // biome-ignore format: a table of checks

t.test('each kind of target ends what it names, and leaves the rest', async (t) => {
  const claims = { tid: 'acme', team: 'blue', jti: 'the-token', sid: 'the-session' }
  const targets: Record<string, unknown>[] = [
    { session_id: 'the-session' },
    { token_id: 'the-token' },
    { client_id: 'app', subject: 'target' },
    { issuer: gate.issuer.url, subject: 'target' },
    { tenant: 'acme' },
    { claims: { '/team': 'blue' } },
    { network: '127.0.0.0/8', subject: 'target' },
    { network: '127.0.0.1/32', claims: { '/team': 'blue' } },
    { subject: 'target', issued_before: new Date() },
  ]
  const other = await hold('chunks', 'untouched')
  for (const columns of targets) {
    const mine = await hold('chunks', 'target', { claims })
    await until('both are under way', () => mine.under(upstream) && other.under(upstream))
    const id = await insert(revoker, columns)
    await until(`cut by ${JSON.stringify(columns)}`, () => mine.ended !== undefined)
    t.match(
      await endOf(mine),
      { ended: 'revoked', revocation: Number(id) },
      JSON.stringify(columns),
    )
    await revoker.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
    const token = await gate.issuer.token('target', { claims })
    await until(
      'let in again',
      async () => (await gate.ask('/reports', token)).code !== 'ERR_REVOKED',
    )
  }
  t.equal(other.ended, undefined)
  other.stop()
})

t.test('a row among more than are looked up one by one cuts what it names alone', async (t) => {
  const mine = await hold('chunks', 'many-7000')
  const other = await hold('chunks', 'many-x')
  await until('both are under way', () => mine.under(upstream) && other.under(upstream))
  await revoker.query(
    "INSERT INTO dropgate.revocations (subject) SELECT 'many-' || n FROM generate_series(1, 12000) n",
  )
  await until('cut', () => mine.ended !== undefined)
  t.equal(other.ended, undefined)
  other.stop()
})

t.test('a row that comes when everything is loaded anew cuts what it names', async (t) => {
  const owner = await gate.cluster.client('migrate_url')
  const mine = await Promise.all(kinds.map((kind) => hold(kind, 'loaded')))
  const other = await hold('chunks', 'not-loaded')
  await until('all are under way', () => [...mine, other].every((each) => each.under(upstream)))
  // More than a notification carries: nothing else tells of them.
  await owner.query(
    `BEGIN; TRUNCATE dropgate.revocations; INSERT INTO dropgate.revocations (subject)
     SELECT CASE n WHEN 300 THEN 'loaded' ELSE 'l-' || n END FROM generate_series(1, 500) n; COMMIT`,
  )
  await until('cut', () => mine.every(({ ended }) => ended !== undefined))
  for (const each of mine) t.match(await endOf(each), { ended: 'revoked' })
  t.equal(other.ended, undefined)
  other.stop()
})

t.test('an expired token ends what is open, where the route does not let it finish', async (t) => {
  const one = async (kind: Kind): Promise<void> => {
    // Tokens are good for the issuer's clock_skew of 5 s beyond their exp.
    const claims = { exp: Math.floor(Date.now() / 1000) - 1 }
    const mine = await hold(kind, `carol-${kind}`, { claims })
    const lenient = await hold(kind, `carol-${kind}`, { claims, path: '/orders/lenient' })
    await until('both are under way', () => mine.under(upstream) && lenient.under(upstream))
    await until('cut', () => mine.ended !== undefined)
    t.ok(Date.now() / 1000 > claims.exp + 5, 'not early')
    t.equal(mine.ended, wayOfCut(kind, 1008))
    t.match(await endOf(mine), { decision: 'cut', ended: 'expired' })
    t.equal(await abortOf(mine), wayOfAbort(kind, 1008))
    t.equal(lenient.ended, undefined)
    lenient.stop()
  }
  await Promise.all(kinds.map(one))
})

t.test(
  'a new policy ends what it denies and nothing else; the clock it sees is of now',
  async (t) => {
    const held: OpenStream[] = []
    for (const kind of kinds) {
      for (const subject of ['pol-a', 'pol-b']) held.push(await hold(kind, subject))
    }
    await until('all are under way', () => held.every((each) => each.under(upstream)))
    const admittedAt = new Date().toISOString()
    const starter = readFileSync('bundles/gate.tar.gz')
    await gate.activate(
      compile(`
default decision := false
decision := {"allowed": true, "reason": "still"} if input.principal.subject != "pol-a"
decision := {"allowed": false, "reason": concat(" ", ["not any more at", input.attributes.request.time])} if input.principal.subject == "pol-a"
`),
    )
    await until('cut', () => held.filter(({ ended }) => ended !== undefined).length >= kinds.length)
    for (const each of held.filter(({ name }) => name.startsWith('pol-a'))) {
      t.equal(each.ended, wayOfCut(each.kind, 1008), each.name)
      const end = await endOf(each)
      t.match(end, { decision: 'cut', ended: 'denied' })
      t.ok(String(end.reason).replace('not any more at ', '') > admittedAt, String(end.reason))
      t.equal(await abortOf(each), wayOfAbort(each.kind, 1008))
    }
    for (const each of held.filter(({ name }) => name.startsWith('pol-b'))) {
      t.equal(each.ended, undefined, each.name)
      each.stop()
    }
    await gate.activate(starter)
  },
)

t.test('a policy that gives no usable answer ends what is open: that is no yes', async (t) => {
  const mine = await hold('chunks', 'pol-c')
  await until('it is under way', () => mine.under(upstream))
  const starter = readFileSync('bundles/gate.tar.gz')
  await gate.activate(
    compile(`
default decision := false
decision := "yes" if input.principal.subject == "pol-c"
`),
  )
  await until('cut', () => mine.ended !== undefined)
  t.match(await endOf(mine), { decision: 'cut', ended: 'denied' })
  await gate.activate(starter)
})

t.test('the limits of a route on age, bytes and idleness end what is open', async (t) => {
  const one = async (kind: Kind): Promise<void> => {
    const aged = await hold(kind, 'lim', { path: '/orders/aged' })
    const counted = await hold(kind, 'lim', { path: '/orders/counted' })
    await until('both are cut', () => aged.ended !== undefined && counted.ended !== undefined)
    t.match(await endOf(aged), { decision: 'cut', ended: 'age' })
    t.match(await endOf(counted), { decision: 'cut', ended: 'bytes' })
  }
  await Promise.all(kinds.map(one))
  const idle = await hold('chunks', 'lim', { path: '/orders/idle', delay: 2000 })
  await until('it is cut', () => idle.ended !== undefined)
  t.match(await endOf(idle), { decision: 'cut', ended: 'idle' })
})

t.test('a row that commits while an exchange begins is never missed', async (t) => {
  const { seed, refused, cut, escaped } = await raceRows(gate, upstream, 500)
  t.comment(`SEED=${seed}: ${refused} refused, ${cut} cut`)
  t.same(escaped, [], `SEED=${seed}`)
  t.ok(refused > 0 && cut > 0, 'both ways of losing were met')
  await until('nothing is left', () => gate.live === 0)
})

t.test('a drain ends what is still open when its time is over', async (t) => {
  const held = await Promise.all(kinds.map((kind) => hold(kind, 'drain')))
  await until('all are under way', () => held.every((each) => each.under(upstream)))
  await gate.gate.close()
  await until('cut', () => held.every(({ ended }) => ended !== undefined))
  for (const each of held) {
    t.equal(each.ended, wayOfCut(each.kind, 1012), each.name)
    t.match(await endOf(each), { decision: 'cut', ended: 'drain' })
    t.equal(await abortOf(each), wayOfAbort(each.kind, 1012))
  }
})
