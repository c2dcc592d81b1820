/**
 * The policy of OPA's own Envoy tutorial, as it stands in OPA's documentation, decides through a gate: it verifies the
 * token itself, so the route asks for none.
 */
import { createHmac } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { findOpaSource } from '../conformance/cases.ts'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { until } from '../harness/wait.ts'

const tutorial = join(findOpaSource(), 'docs/docs/envoy/tutorial-standalone-envoy.md')
const rego = /```rego\n([^`]*package envoy\.authz[^`]*)```/.exec(
  readFileSync(tutorial, 'utf8'),
)?.[1]
if (rego === undefined) throw new Error(`${tutorial} has no policy`)

const decision = 'envoy/authz/allow'
const gate = await TestGate.start({
  bundle: null,
  ready: false,
  config: { policy: { bundles: './bundles', settle: '20ms', decision } },
  routes: [{ name: 'people', path: '/', auth: 'none', forward: { authorization: 'keep' } }],
})
t.teardown(() => gate.stop())
gate.put(compile(rego, [decision]))
await until('ready', () => gate.gate.readiness().ready)

const nowS = Math.floor(Date.now() / 1000)

function tokenOf(role: string, name: string, over: object = {}, secret = 'secret'): string {
  const encode = (part: object): string => Buffer.from(JSON.stringify(part)).toString('base64url')
  const sub = Buffer.from(name).toString('base64url')
  const claims = { role, sub, nbf: nowS - 60, exp: nowS + 600, ...over }
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`
}

const guest = tokenOf('guest', 'alice')
const admin = tokenOf('admin', 'bob')
const json = { 'content-type': 'application/json' }
const post = (token: string, body: string, headers = json) =>
  gate.ask('/people', token, { method: 'POST', body, headers })

t.test('guests read and admins write, but no caller under its own name', async (t) => {
  t.equal((await gate.ask('/people', guest)).status, 200)
  t.equal((await gate.ask('/people', admin)).status, 200)
  t.equal((await post(guest, '{"firstname":"Charlie"}')).status, 403)
  t.equal((await post(admin, '{"firstname":"Charlie","lastname":"Opa"}')).status, 200)
  t.equal(gate.upstream.seen.at(-1)!.body, '{"firstname":"Charlie","lastname":"Opa"}')
  t.equal((await post(admin, '{"firstname":"Bob"}')).status, 403)
  t.equal(
    (await post(admin, '{"firstname":"Charlie","firstname":"Bob"}')).code,
    'ERR_BODY_MALFORMED',
  )
  t.equal((await gate.ask('/people/1', admin)).status, 403)
})

t.test('no token, or a foreign, expired, early or unsigned one, is denied', async (t) => {
  for (const [what, token] of [
    ['none', undefined],
    ['another secret', tokenOf('admin', 'bob', {}, 'Secret')],
    ['expired', tokenOf('admin', 'bob', { exp: nowS - 1 })],
    ['not yet', tokenOf('admin', 'bob', { nbf: nowS + 600 })],
    ['unsigned', `${admin.split('.').slice(0, 2).join('.')}.`],
  ] as const) {
    t.equal((await gate.ask('/people', token)).status, 403, what)
  }
})

t.test('the time that the policy saw is in the record', async (t) => {
  await until('it is logged', () =>
    gate.log.some(
      (event) => (event as { nd_builtin_cache?: object }).nd_builtin_cache !== undefined,
    ),
  )
  const { nd_builtin_cache } = gate.log.find((event) => 'nd_builtin_cache' in event) as unknown as {
    nd_builtin_cache: { 'time.now_ns': { '[]': number } }
  }
  t.ok(Math.abs(nd_builtin_cache['time.now_ns']['[]'] / 1e9 - nowS) < 600)
})
