/** A row denies the next request on every worker, whatever happens to the connection meanwhile. */
import type pg from 'pg'
import t from 'tap'
import { EveryWorker, TestGate } from '../harness/gate.ts'
import { PostgresProxy } from '../harness/postgres.ts'
import { until } from '../harness/wait.ts'

const proxy = new PostgresProxy()
const gate = await TestGate.start({
  databaseUrl: (url) => proxy.open(url),
  config: { revocation: { max_staleness: '2s', tick: '200ms', hard_stop: '5s' } },
  routes: [
    { name: 'orders', path: '/orders' },
    {
      name: 'tolerant',
      path: '/tolerant',
      auth: 'none',
      stale: 'allow',
      labels: { visibility: 'public' },
    },
    { name: 'public', path: '/public', auth: 'none', labels: { visibility: 'public' } },
  ],
})
const clients = new EveryWorker()
const revoker = await gate.revoker()
t.teardown(async () => {
  clients.close()
  await gate.stop()
  proxy.close()
})

/** Statuses and codes that all connections get now, without repeats. */
async function everywhere(path: string, token: string): Promise<string> {
  const answers = await clients.ask(gate, path, token)
  return [...new Set(answers.map(({ status, code }) => code ?? String(status)))].sort().join()
}

async function insert(client: pg.Client, columns: Record<string, unknown>): Promise<string> {
  const names = Object.keys(columns)
  const { rows } = await client.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()}) RETURNING id`,
    Object.values(columns),
  )
  return rows[0].id
}

async function remove(id: string): Promise<void> {
  await revoker.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
}

t.test('the connections reach every worker', async (t) => {
  await everywhere('/orders', await gate.issuer.token('alice'))
  await until('records', () => new Set(gate.log.map(({ custom }) => custom.worker)).size === 2)
  t.pass()
})

for (const [what, columns] of [
  ['subject', { subject: 'alice' }],
  ['session', { session_id: 'sid-alice' }],
  ['token', { token_id: 'token-of-alice' }],
  ['client and subject', { client_id: 'app', subject: 'alice' }],
  ['subject at the issuer', { issuer: gate.issuer.url, subject: 'alice' }],
] as const) {
  t.test(`a row that names the ${what} denies on every worker; its deletion allows`, async (t) => {
    const token = await gate.issuer.token('alice', { claims: { jti: 'token-of-alice' } })
    const bystander = await gate.issuer.token('bob', { claims: { client_id: 'app', jti: 'other' } })
    t.equal(await everywhere('/orders', token), '200')
    const id = await insert(revoker, columns)
    await until(
      'denied everywhere',
      async () => (await everywhere('/orders', token)) === 'ERR_REVOKED',
    )
    gate.upstream.seen.length = 0
    for (let i = 0; i < 5; i++)
      t.equal(await everywhere('/orders', token), 'ERR_REVOKED', 'and stays so')
    t.equal(gate.upstream.seen.length, 0)
    t.equal(await everywhere('/orders', bystander), '200')
    await until('recorded', () => gate.log.some(({ custom }) => custom.revocation === Number(id)))
    await remove(id)
    await until('allowed everywhere', async () => (await everywhere('/orders', token)) === '200')
  })
}

t.test('a cutoff ends what was issued before it and lets a new sign-in live', async (t) => {
  const now = Math.floor(Date.now() / 1000)
  const old = await gate.issuer.token('carol', { claims: { iat: now - 100 } })
  const fresh = await gate.issuer.token('carol', { claims: { iat: now - 10 } })
  const id = await insert(revoker, { subject: 'carol', issued_before: new Date((now - 50) * 1000) })
  await until('denied', async () => (await everywhere('/orders', old)) === 'ERR_REVOKED')
  t.equal(await everywhere('/orders', fresh), '200')
  const same = await gate.issuer.token('carol', { claims: { iat: now - 50 } })
  const answer = await gate.ask('/orders', same)
  t.same([answer.code, answer.headers['retry-after']], ['ERR_REVOKED', '1'], 'the ambiguous second')
  await remove(id)
})

t.test('a row that expires lets go by itself', async (t) => {
  const token = await gate.issuer.token('dave')
  await insert(revoker, { subject: 'dave', expires_at: new Date(Date.now() + 4000) })
  await until('denied', async () => (await everywhere('/orders', token)) === 'ERR_REVOKED')
  await until('allowed again', async () => (await everywhere('/orders', token)) === '200')
  t.pass()
})

t.test('a row for everyone is 401 with a token, 503 without, and needs break-glass', async (t) => {
  await t.rejects(insert(revoker, { everyone: true }), { code: '42501' })
  const owner = await gate.cluster.client('migrate_url')
  const token = await gate.issuer.token('erin')
  const id = await insert(owner, { everyone: true })
  await until('denied', async () => (await everywhere('/orders', token)) === 'ERR_REVOKED')
  const answer = await gate.ask('/public')
  t.same([answer.status, answer.code], [503, 'ERR_EVERYONE_REVOKED'])
  await remove(id)
  await until('allowed', async () => (await gate.ask('/public')).status === 200)
})

t.test('a row written while the connection is down denies after it is back', async (t) => {
  const token = await gate.issuer.token('frank')
  t.equal(await everywhere('/orders', token), '200')
  proxy.refusing = true
  proxy.cut()
  await insert(revoker, { subject: 'frank' })
  proxy.refusing = false
  await until(
    'denied everywhere',
    async () => (await everywhere('/orders', token)) === 'ERR_REVOKED',
  )
  t.pass()
})

t.test(
  'without proof of freshness requests are refused, unless the route tolerates that, and there only so long',
  async (t) => {
    const token = await gate.issuer.token('grace')
    proxy.refusing = true
    proxy.cut()
    await until('stale', async () => (await everywhere('/orders', token)) === 'ERR_STALE')
    t.equal((await gate.ask('/orders', token)).status, 503)
    t.equal(gate.gate.readiness().ready, false)
    t.match(gate.gate.readiness().reasons, ['the revocation feed is stale'])
    t.equal((await gate.ask('/tolerant')).status, 200)
    await until('told to the policy', () =>
      gate.log.some(
        ({ input }) => (input as { feed?: { stale: boolean } } | undefined)?.feed?.stale === true,
      ),
    )
    await until('the hard stop', async () => (await gate.ask('/tolerant')).code === 'ERR_STALE')
    proxy.refusing = false
    await until('fresh again', async () => (await everywhere('/orders', token)) === '200')
    await until('ready', () => gate.gate.readiness().ready)
  },
)

t.test('a database that falls silent without closing anything is stale too', async (t) => {
  const token = await gate.issuer.token('heidi')
  proxy.silent = true
  await until('stale', async () => (await everywhere('/orders', token)) === 'ERR_STALE')
  await insert(revoker, { subject: 'heidi' })
  proxy.silent = false
  await until('denied', async () => (await everywhere('/orders', token)) === 'ERR_REVOKED', 20_000)
  t.pass()
})
