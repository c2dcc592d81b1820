/**
 * Each kind of target through a whole gate: the row denies whom it names, on every worker, and no other caller. Certificates
 * need TLS: walks/bound.test.ts, walks/tls.test.ts.
 */
import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { calculateJwkThumbprint } from 'jose'
import t from 'tap'
import { tokenHash } from '../../src/domain/token-hash.ts'
import { EveryWorker, TestGate } from '../harness/gate.ts'
import { until } from '../harness/wait.ts'

const peppers = ['0123456789'.repeat(4), 'abcdefghij'.repeat(4)]
const gate = await TestGate.start({
  prepare: (folder) => {
    writeFileSync(join(folder, 'pepper'), `${peppers.join('\n')}\n`, { mode: 0o600 })
  },
  config: { revocation: { pepper_file: 'pepper' } },
  issuer: {
    claims: { tenant: '/tid', groups: '/groups', device: '/device/id' },
    keys_cooldown: '50ms',
  },
  routes: [
    { name: 'orders', path: '/orders' },
    { name: 'public', path: '/public', auth: 'none', labels: { visibility: 'public' } },
  ],
})
const clients = new EveryWorker()
const revoker = await gate.revoker()
t.teardown(async () => {
  clients.close()
  await gate.stop()
})

async function everywhere(path: string, token: string): Promise<string> {
  const answers = await clients.ask(gate, path, token)
  return [...new Set(answers.map(({ status, code }) => code ?? String(status)))].sort().join()
}

async function insert(columns: Record<string, unknown>): Promise<string> {
  const names = Object.keys(columns)
  const { rows } = await revoker.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()}) RETURNING id`,
    Object.values(columns),
  )
  return rows[0].id
}

const remove = (id: string): Promise<unknown> =>
  revoker.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])

const x5t = createHash('sha256').update('certificate').digest('base64url')
const nowS = Math.floor(Date.now() / 1000)
const claims = {
  tid: 'acme',
  groups: ['staff', 'admins'],
  device: { id: 'laptop-7' },
  role: 'clerk',
  level: 3,
  tags: ['a', 'b', 7],
  nested: { 'odd/name~': true },
  auth_time: nowS - 1000,
  act: { sub: 'helpdesk', act: { sub: 'robot' } },
}
const alice = await gate.issuer.token('alice', { claims: { ...claims, jti: 'alice-1' } })
const bob = await gate.issuer.token('bob', {
  claims: { tid: 'other', groups: 'guests', tags: [7, 'c'], level: '3', auth_time: nowS },
})
const thumbprint = await calculateJwkThumbprint(gate.issuer.keys[0]!)
const foreign = createHash('sha256').update('another').digest('base64url')
const hash = (token: string, pepper: string): Buffer => tokenHash(Buffer.from(pepper), token)

const hits: [string, Record<string, unknown>][] = [
  ['the hash of the token', { token_hash: hash(alice, peppers[0]!) }],
  ['its hash under the pepper from before', { token_hash: hash(alice, peppers[1]!) }],
  ['the tenant', { tenant: 'acme' }],
  ['one of the groups', { group_value: 'admins' }],
  ['the device', { device_id: 'laptop-7' }],
  ['a claim', { claims: { '/role': 'clerk' } }],
  ['a number', { claims: { '/level': 3 } }],
  ['an element of a list', { claims: { '/tags': 'b' } }],
  ['a claim deep inside', { claims: { '/nested/odd~1name~0': true } }],
  ['two claims', { claims: { '/role': 'clerk', '/device/id': 'laptop-7' } }],
  ['an actor', { subject: 'robot' }],
  ['tenant and group', { tenant: 'acme', group_value: 'staff' }],
  ['all of it at the issuer', { issuer: gate.issuer.url, tenant: 'acme', claims: { '/level': 3 } }],
  ['the subject, but for another session', { subject: 'alice', except_session_id: 'other' }],
  [
    'who signed in before',
    { subject: 'alice', compare: 'auth_time', issued_before: new Date((nowS - 500) * 1000) },
  ],
  ['the tenant and the network', { tenant: 'acme', network: '127.0.0.0/8' }],
]
for (const [what, columns] of hits) {
  t.test(`a row that names ${what} denies whom it names and no other caller`, async (t) => {
    t.equal(await everywhere('/orders', alice), '200')
    const id = await insert(columns)
    await until('denied', async () => (await everywhere('/orders', alice)) === 'ERR_REVOKED')
    t.equal(await everywhere('/orders', bob), '200')
    await remove(id)
    await until('allowed', async () => (await everywhere('/orders', alice)) === '200')
  })
}

t.test('rows that name other callers deny no request', async (t) => {
  const ids = [
    await insert({ token_hash: hash(alice, 'z'.repeat(40)) }),
    await insert({ tenant: 'staff' }),
    await insert({ group_value: 'acme' }),
    await insert({ issuer: 'https://other.example', tenant: 'acme' }),
    await insert({ proof_key: foreign }),
    await insert({ client_cert: x5t }),
    await insert({ claims: { '/level': '3', '/tid': 'acme' } }),
    await insert({ claims: { '/tags': '7' } }),
    await insert({ claims: { '/__proto__': 'x' } }),
    await insert({ claims: { '/tags/length': 3 } }),
    await insert({ subject: 'alice', except_session_id: 'sid-alice' }),
    await insert({ subject: 'alice', network: '10.0.0.0/8' }),
    await insert({ network: '127.0.0.2/32' }),
    await insert({
      subject: 'alice',
      compare: 'auth_time',
      issued_before: new Date((nowS - 2000) * 1000),
    }),
  ]
  const marker = await gate.issuer.token('marker')
  ids.push(await insert({ subject: 'marker' }))
  await until('in force', async () => (await everywhere('/orders', marker)) === 'ERR_REVOKED')
  t.equal(await everywhere('/orders', alice), '200')
  t.equal(await everywhere('/orders', bob), '200')
  for (const id of ids) await remove(id)
})

t.test('a token without auth_time cannot show that its bearer signed in again', async (t) => {
  const silent = await gate.issuer.token('carol')
  const again = await gate.issuer.token('carol', { claims: { auth_time: nowS - 1 } })
  const claimed = await gate.issuer.token('carol', { claims: { auth_time: nowS + 9000 } })
  const id = await insert({
    subject: 'carol',
    compare: 'auth_time',
    issued_before: new Date((nowS - 60) * 1000),
  })
  await until('denied', async () => (await everywhere('/orders', silent)) === 'ERR_REVOKED')
  t.equal(await everywhere('/orders', claimed), 'ERR_REVOKED', 'nor can one that lies about it')
  t.equal(await everywhere('/orders', again), '200')
  await remove(id)
})

t.test('the key that signed: its tokens die, those of the next key live', async (t) => {
  const id = await insert({ issuer: gate.issuer.url, key_thumbprint: thumbprint })
  await until('denied', async () => (await everywhere('/orders', bob)) === 'ERR_REVOKED')
  await gate.issuer.rotate('two')
  const next = await gate.issuer.token('bob')
  await until('the next key', async () => (await everywhere('/orders', next)) === '200')
  t.not(await calculateJwkThumbprint(gate.issuer.keys[0]!), thumbprint)
  await remove(id)
})

t.test(
  'a network is denied with 401 or, without a token, 403; a claim that was never looked at denies at once',
  async (t) => {
    const bob = await gate.issuer.token('bob')
    const id = await insert({ network: '127.0.0.0/9' })
    await until('denied', async () => (await everywhere('/orders', bob)) === 'ERR_REVOKED')
    const answer = await gate.ask('/public')
    t.same([answer.status, answer.code], [403, 'ERR_PEER_REVOKED'])
    const cutoff = await insert({
      network: '127.0.0.0/10',
      issued_before: new Date(),
    })
    await remove(id)
    await until('only the cutoff', async () => (await gate.ask('/public')).status === 200)
    t.equal(await everywhere('/orders', bob), 'ERR_REVOKED', 'a token issued before, from there')
    await remove(cutoff)
    await until('allowed', async () => (await everywhere('/orders', bob)) === '200')
  },
)

t.test('every new claim hits tokens that were clean a moment ago', async (t) => {
  const parts = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`c${i}`, `v${i}`]))
  const token = await gate.issuer.token('dave', { claims: parts })
  for (let i = 0; i < 20; i++) {
    t.equal(await everywhere('/orders', token), '200')
    const id = await insert({ claims: { [`/c${i}`]: `v${i}` } })
    await until('denied', async () => (await everywhere('/orders', token)) === 'ERR_REVOKED')
    await remove(id)
    await until('allowed', async () => (await everywhere('/orders', token)) === '200')
  }
})

t.test('what no row could name is no token: groups, tenant, device, chains', async (t) => {
  for (const [name, more] of [
    ['a group with NUL', { groups: ['a\0'] }],
    ['a group that is no text', { groups: [1] }],
    ['groups kept elsewhere', { _claim_names: { groups: 'src1' } }],
    ['too many groups', { hasgroups: true }],
    ['a tenant that is no text', { tid: 7 }],
    ['a device with a lone surrogate', { device: { id: '\ud800' } }],
    ['an actor that is no text', { act: { sub: 1 } }],
    [
      'an endless chain',
      { act: Array.from({ length: 9 }).reduce((act) => ({ sub: 'x', act }), { sub: 'y' }) },
    ],
  ] as const) {
    const token = await gate.issuer.token('erin', { claims: more as Record<string, unknown> })
    t.equal((await gate.ask('/orders', token)).code, 'ERR_TOKEN_CLAIMS', name)
  }
})
