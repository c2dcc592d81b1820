/** What is open, as operators see it, and its end by their hand. */
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { LivePage } from '../../src/admin/live.ts'
import { TestGate } from '../harness/gate.ts'
import { OpenStream, StreamUpstream } from '../harness/streams.ts'
import { until } from '../harness/wait.ts'

const upstream = new StreamUpstream()
await upstream.open()
const open = { auth: 'none', labels: { visibility: 'public' } }
const gate = await TestGate.start({
  config: { limits: { max_lag: '60s' } },
  routes: [
    { name: 'orders', path: '/orders', upstream: upstream.origin },
    { name: 'public', path: '/public', upstream: upstream.origin, ...open },
  ],
})
t.teardown(async () => {
  await gate.stop()
  upstream.close()
})
const file = join(gate.folder, 'dropgate.yaml')
writeFileSync(
  file,
  JSON.stringify({
    admin: { port: gate.gate.address().adminPort, token_file: 'admin.token' },
    database: { url: gate.cluster.url, cli_url: gate.cluster.cli_url },
    routes: [{ name: 'x', auth: 'none', upstream: 'http://127.0.0.1:1' }],
  }),
)

function run(...args: string[]): Promise<{ exit: number | null; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['src/main.ts', ...args, '--config', file])
    let [out, err] = ['', '']
    child.stdout.on('data', (data) => {
      out += data
    })
    child.stderr.on('data', (data) => {
      err += data
    })
    child.on('close', (exit) => resolve({ exit, out, err }))
  })
}

const admin = (path: string, method = 'GET', token = gate.adminToken): Promise<Response> =>
  fetch(`${gate.admin}${path}`, { method, headers: { authorization: `Bearer ${token}` } })
const page = async (query: string): Promise<LivePage> =>
  (await (await admin(`/v1/live?${query}`)).json()) as LivePage

const subjects = ['ann', 'ben', 'cem', 'dot', 'eve', 'fay']
const held: OpenStream[] = []
for (const subject of subjects) {
  for (const kind of ['chunks', 'websocket'] as const) {
    const claims = subject === 'fay' ? { sid: undefined } : {}
    const token = await gate.issuer.token(subject, { claims })
    held.push(new OpenStream(kind, `${subject}-${kind}`, gate.port, token))
  }
}
held.push(new OpenStream('chunks', 'nobody', gate.port, '', { path: '/public' }))
t.teardown(() => {
  for (const each of held) each.stop()
})
await until('all are under way', () => held.every((each) => each.under(upstream)))

t.test('open exchanges are listed page by page, each once', async (t) => {
  const seen: string[] = []
  let after = ''
  let pages = 0
  do {
    const { exchanges, next, silent_workers } = await page(`limit=3${after}`)
    t.ok(exchanges.length <= 3)
    t.same(silent_workers, [])
    seen.push(...exchanges.map(({ id }) => id))
    after = next === null ? '' : `&after=${next}`
    pages++
  } while (after !== '')
  t.equal(seen.length, held.length)
  t.equal(new Set(seen).size, held.length)
  t.ok(pages >= 5)
  let ann: LivePage['exchanges'][number] | undefined
  await until('bytes went both ways', async () => {
    ann = (await page('subject=ann&protocol=websocket')).exchanges[0]
    return ann !== undefined && ann.bytes_in > 0 && ann.bytes_out > 0 && ann.age_ms > 0
  })
  t.match(ann, {
    subject: 'ann',
    route: 'orders',
    protocol: 'websocket',
    issuer: gate.issuer.url,
    client_id: 'app',
    session_id: 'sid-ann',
    address: '127.0.0.1',
  })
  t.equal((await page('route=public')).exchanges.length, 1)
  t.equal((await page('route=public')).exchanges[0]!.subject, null)
  t.equal((await page('subject=nobody')).exchanges.length, 0)
})

t.test('a query that is not understood is refused, and so is one without the token', async (t) => {
  for (const query of [
    'subjct=ann',
    'limit=0',
    'limit=1001',
    'limit=x',
    'after=1',
    'subject=a&subject=b',
  ])
    t.equal((await admin(`/v1/live?${query}`)).status, 400, query)
  t.equal((await admin('/v1/live', 'GET', 'x')).status, 401)
  t.equal((await admin('/v1/live/x/cut', 'POST', 'x')).status, 401)
  t.equal((await admin('/v1/live/x/cut', 'POST')).status, 404)
})

t.test('`cut` ends one exchange and offers the row that would keep its caller out', async (t) => {
  const { out, exit } = await run('live', '--subject', 'ben', '--protocol', 'websocket', '--json')
  t.equal(exit, 0)
  const [ben] = (JSON.parse(out) as LivePage).exchanges
  const text = await run('live', '--limit', '2')
  t.match(text.out, /more: --after/)
  const done = await run('cut', ben!.id)
  t.same([done.exit, done.err], [0, ''])
  t.match(done.out, `dropgate revoke --issuer '${gate.issuer.url}' --session 'sid-ben'`)
  const mine = held.find(({ name }) => name === 'ben-websocket')!
  await until('cut', () => mine.ended !== undefined)
  t.equal(mine.ended, 1008)
  await until('recorded', () => gate.log.some(({ custom }) => custom.ended === 'operator' && custom.subject === 'ben'))
  t.equal(held.filter(({ ended }) => ended !== undefined).length, 1, 'and nothing else')
  const again = await run('cut', ben!.id)
  t.equal(again.exit, 1)
  t.match(again.err, 'ERR_NOT_FOUND')
  const [fay] = (await page('subject=fay&protocol=http')).exchanges
  const answer = await (await admin(`/v1/live/${fay!.id}/cut`, 'POST')).json()
  t.match(answer, { cut: { subject: 'fay' }, row: { issuer: gate.issuer.url, subject: 'fay' } })
  t.notOk('session_id' in (answer as { row: object }).row, 'no session, so the subject')
  const [nobody] = (await page('route=public')).exchanges
  t.match(await (await admin(`/v1/live/${nobody!.id}/cut`, 'POST')).json(), { row: null })
  t.equal((await run('live', '--limit', 'x')).exit, 2)
}) // biome-ignore format: a table of checks
