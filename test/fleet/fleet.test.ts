/** Ten gates on one database: receipts of all, the one that is frozen by name and limit, what none can match. */
import { type ChildProcess, spawn } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { revoke } from '../../src/cli/revoke.ts'
import { listFleet } from '../../src/store/statements.ts'
import { revised } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { startPostgres } from '../harness/postgres.ts'
import { pause, until } from '../harness/wait.ts'

t.setTimeout(280_000)
const folder = mkdtempSync(join(tmpdir(), 'dropgate-fleet-'))
mkdirSync(join(folder, 'bundles'))
cpSync('bundles/gate.tar.gz', join(folder, 'bundles', 'gate.tar.gz'))
const cluster = await startPostgres()
const config = join(folder, 'dropgate.yaml')
writeFileSync(join(folder, 'pepper'), 'p'.repeat(40), { mode: 0o600 })
writeFileSync(
  config,
  `listen: {port: 0}
admin: {port: 0, token_file: admin.token}
database: {url: "${cluster.url}", cli_url: "${cluster.cli_url}"}
decision_log: {file: decisions.jsonl}
revocation: {pepper_file: pepper, max_staleness: 4s}
workers: 1
routes: [{name: public, path: /public, auth: none, upstream: "http://127.0.0.1:1"}]
`,
)
const owner = await cluster.client('migrate_url')
const gates: TestGate[] = []
let child: ChildProcess | undefined
t.teardown(async () => {
  child?.kill('SIGKILL')
  await Promise.all(gates.map((gate) => gate.stop()))
  await cluster.close()
  rmSync(folder, { recursive: true, force: true })
})

const noInput = (): Promise<string> => Promise.resolve('')
const fleet = async (): Promise<Record<string, unknown>[]> =>
  (await owner.query('SELECT * FROM dropgate.fleet ORDER BY started_at')).rows

interface Ran {
  readonly exit: number | null
  readonly out: string
  readonly err: string
}

function run(...args: string[]): Promise<Ran> {
  const started = spawn(process.execPath, ['src/main.ts', ...args, '--config', config])
  let out = ''
  let err = ''
  started.stdout.on('data', (data) => {
    out += data
  })
  started.stderr.on('data', (data) => {
    err += data
  })
  return new Promise((resolve) => started.on('close', (exit) => resolve({ exit, out, err })))
}

t.test('before any gate has said what it can match, nothing is refused for that', async (t) => {
  const { row } = await revoke(config, { tenant: 'early' }, noInput)
  t.ok(row.id)
  const waited = await revoke(config, { subject: 'x', wait: true, timeout: '0s' }, noInput)
  t.same(waited.receipts, [], 'and nobody could confirm it')
})

t.test('a writer does not wait on for a row that was deleted', async (t) => {
  const running = run('revoke', '--subject', 'brief', '--wait', '--timeout', '600s')
  await until('deleted', async () => {
    const { rowCount } = await owner.query(
      "DELETE FROM dropgate.revocations WHERE subject = 'brief'",
    )
    return rowCount === 1
  })
  const { exit, out, err } = await running
  t.equal(exit, 1)
  t.match(
    err,
    /revocation (\d+) was deleted before every gate had confirmed it.*row_id = \1.*ERR_NOT_FOUND/s,
  )
  t.match(out, /^revoked: row \d+, /)
})

t.test('all ten gates confirm a revocation, each with its time', async (t) => {
  // The tenth is a process of its own, which can be frozen.
  child = spawn(process.execPath, ['src/main.ts', 'serve', '--config', config], { stdio: 'ignore' })
  const starting = Array.from({ length: 9 }, (_, i) => {
    const claims = i === 0 ? { tenant: '/tid' } : {}
    return TestGate.start({ cluster, issuer: { claims }, config: { workers: 1 }, ready: false })
  })
  gates.push(...(await Promise.all(starting)))
  await until(
    'ten gates',
    async () => {
      await pause(100)
      const { rows } = await owner.query(
        'SELECT count(*)::int AS n FROM dropgate.gates WHERE cursor IS NOT NULL',
      )
      return rows[0].n === 10
    },
    60_000,
  )
  for (let round = 0; round < 2; round++) {
    const { row, receipts } = await revoke(
      config,
      { subject: `alice-${round}`, wait: true, timeout: '60s' },
      noInput,
    )
    t.equal(receipts!.length, 10)
    for (const { ms, cuts, may_allow_until: until } of receipts!) {
      t.ok(ms !== null && ms >= 0 && ms < 60_000, `${ms} ms`)
      t.same([cuts, until], [0, null])
    }
    const { rows } = await owner.query(
      'SELECT count(DISTINCT gate)::int AS n FROM dropgate.receipts WHERE row_id = $1',
      [row.id],
    )
    t.equal(rows[0].n, 10)
  }
  const { rows } = await owner.query('SELECT cursor, fresh_at FROM dropgate.gates')
  for (const { cursor, fresh_at } of rows) t.ok(cursor !== null && fresh_at !== null)
})

interface Reported {
  readonly id: string
  readonly pid: number
  readonly heard: boolean
  readonly ready: boolean
  readonly seen_ms: number
  readonly policies: { readonly gate?: string }
}
const listed = async (): Promise<readonly Reported[]> =>
  (await listFleet(owner, 'dropgate')) as unknown as Reported[]

t.test('the fleet says which policy and version each gate runs', async (t) => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8'))
  const swapped = gates.at(-1)
  const { id, policy } = swapped!.gate.status() as {
    id: string
    policy: { active_revision: string }
  }
  let all: readonly Reported[] = []
  const say = async (what: (gate: Reported) => boolean): Promise<boolean> => {
    all = await listed()
    return all.length === 10 && all.every((gate) => gate.heard && what(gate))
  }
  await until('all say the policy of the start', () =>
    say(({ ready, policies }) => ready && policies.gate === policy.active_revision),
  )
  const reported = { version, ready: true, rows: String, age_ms: Number, seen_ms: Number }
  for (const gate of all) t.match(gate, reported)
  await swapped!.activate(await revised(readFileSync('bundles/gate.tar.gz'), 'another', {}))
  await until('one says another', () =>
    say((gate) => gate.policies.gate === (gate.id === id ? 'another' : policy.active_revision)),
  )
})

t.test('a frozen gate is named, with until when it may still allow', async (t) => {
  child!.kill('SIGSTOP')
  await until('it is silent', async () => (await listed()).some(({ heard }) => heard === false))
  for (const { pid, heard, ready } of await listed())
    t.same([heard, ready], Array(2).fill(pid !== child!.pid), 'what is silent is not ready')
  const { rows: last } = await owner.query('SELECT bool_and(ready) AS ready FROM dropgate.gates')
  t.equal(last[0].ready, true, 'although it was when it said something last')
  const before = Date.now()
  const { exit, out, err } = await run(
    'revoke',
    '--subject',
    'bob',
    '--wait',
    '--timeout',
    '5s',
    '--json',
  )
  t.equal(exit, 1)
  t.match(err, /1 of 10 gates did not confirm it within 5s.*ERR_TIMEOUT|ERR_TIMEOUT.*1 of 10/)
  const { receipts, missing } = JSON.parse(out)
  t.equal(receipts.length, 9)
  t.match(missing, [{ pid: child!.pid, ms: null }])
  const until_ = Date.parse(missing[0].may_allow_until)
  t.ok(until_ > before + 3900 && until_ < Date.now() + 4000, 'four seconds after the insert')
  const said = await run('revoke', '--subject', 'bob', '--wait', '--timeout', '500ms')
  t.match(said.out, new RegExp(`${child!.pid} .*: no answer; it may still allow until 20`))
  child!.kill('SIGCONT')
  const again = await revoke(config, { subject: 'bob', wait: true, timeout: '60s' }, noInput)
  t.ok(
    again.receipts!.every(({ ms }) => ms !== null),
    'it answers again once it runs',
  )
})

t.test('open exchanges that a row ends are counted into its receipt', async (t) => {
  const [gate] = gates
  gate!.upstream.answer = (socket) =>
    socket.write('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n')
  const token = await gate!.issuer.token('carol')
  const open = Array.from({ length: 3 }, () => gate!.ask('/orders', token))
  await until('three are open', () => gate!.upstream.seen.length >= 3)
  const { receipts } = await revoke(
    config,
    { subject: 'carol', wait: true, timeout: '60s' },
    noInput,
  )
  const cuts = receipts!.map((receipt) => receipt.cuts)
  t.same(
    cuts.sort((a, b) => b! - a!),
    [3, ...Array(9).fill(0)],
  )
  for (const { complete } of await Promise.all(open)) t.equal(complete, false)
})

t.test('a row that no gate can match is warned of, refused, marked and counted', async (t) => {
  const warnings: string[] = []
  const revoker = await cluster.client('cli_url')
  revoker.on('notice', ({ message }) => warnings.push(String(message)))
  const insert = async (columns: string, ...values: unknown[]): Promise<string> => {
    const { rows } = await revoker.query(
      `INSERT INTO dropgate.revocations (${columns}) VALUES (${values.map((_, i) => `$${i + 1}`).join()}) RETURNING id`,
      values,
    )
    return rows[0].id
  }
  const unmatched = [
    await insert('group_value', 'staff'),
    await insert('issuer, subject', 'https://elsewhere.example', 'a'),
    await insert('issuer, tenant', gates[1]!.issuer.url, 'acme'),
    await insert('tenant, device_id', 'acme', 'd'),
    await insert('client_cert', `${'a'.repeat(42)}A`),
  ]
  t.equal(warnings.length, unmatched.length)
  t.match(warnings[0], `no gate can match revocation ${unmatched[0]}`)
  const matched = [
    await insert('tenant', 'acme'),
    await insert('issuer, tenant', gates[0]!.issuer.url, 'acme'),
    await insert('issuer, subject', gates[1]!.issuer.url, 'a'),
    await insert('network', '10.0.0.0/8'),
    await insert('claims', '{"/x": 1}'),
  ]
  t.equal(warnings.length, unmatched.length)
  await revoker.query(
    "INSERT INTO dropgate.revocations (group_value) SELECT 'g' || i FROM generate_series(1, 3000) i",
  )
  t.equal(warnings.length, unmatched.length + 1000, 'of many, the first')
  await revoker.query("DELETE FROM dropgate.revocations WHERE group_value LIKE 'g%'")

  await t.rejects(revoke(config, { group: 'staff' }, noInput), {
    code: 'ERR_UNMATCHED',
    message: 'no gate can match --group',
    hint: /^set issuers\[\]\.claims\.groups in the configuration of the gates/,
  })
  await t.rejects(revoke(config, { issuer: 'https://idp/', subject: 'a' }, noInput), {
    code: 'ERR_UNMATCHED',
    message: /issuer https:\/\/idp\//,
  })
  await t.rejects(
    revoke(config, { token: '-' }, () => Promise.resolve('opaque')),
    { code: 'ERR_UNMATCHED' },
  )
  const forced = await revoke(config, { group: 'staff', force: true }, noInput)
  const listed = JSON.parse((await run('list', '--json')).out) as {
    id: string
    unmatched: boolean
  }[]
  const marked = new Set(listed.filter((row) => row.unmatched).map(({ id }) => id))
  for (const id of [...unmatched, String(forced.row.id)]) t.ok(marked.has(id), id)
  for (const id of matched) t.notOk(marked.has(id), id)
  const status = (): { fleet: { unmatched_rows: number; gates: number } } =>
    gates[0]!.gate.status() as never
  await until('counted', () => status().fleet.unmatched_rows === unmatched.length + 1001)
  t.equal(status().fleet.gates, 10)
})

t.test('a gate that ends in order leaves the fleet, and no writer waits for it', async (t) => {
  await gates.pop()!.stop()
  await until('it has left', async () => (await fleet()).length === 9)
  child!.kill('SIGTERM')
  await until('the process has left', async () => (await fleet()).length === 8)
  const { receipts } = await revoke(
    config,
    { subject: 'dave', wait: true, timeout: '60s' },
    noInput,
  )
  t.equal(receipts!.length, 8)
})

t.test('while the database is away the gate goes on, and reports again afterwards', async (t) => {
  const [gate] = gates
  await owner.query(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dropgate fleet'",
  )
  await until('said so', () => gate!.logged.some(({ message }) => /cannot report/.test(message)))
  const { receipts } = await revoke(
    config,
    { subject: 'erin', wait: true, timeout: '60s' },
    noInput,
  )
  t.ok(receipts!.every(({ ms }) => ms !== null))
})
