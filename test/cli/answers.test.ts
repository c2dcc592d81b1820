/** `list`, `show`, `status`, and what `revoke` and `lift` say: with a gate, and when it is gone. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { askStatus } from '../../src/cli/status.ts'
import { listRevocations } from '../../src/store/lookup.ts'
import { type Ran, runCommand } from '../harness/command.ts'
import { TestGate } from '../harness/gate.ts'
import { until } from '../harness/wait.ts'

const gate = await TestGate.start()
const cli = await gate.revoker()
const owner = await gate.cluster.client('migrate_url')
t.teardown(() => gate.stop())

const file = join(gate.folder, 'dropgate.yaml')
const written = {
  admin: { port: gate.gate.address().adminPort, token_file: 'admin.token' },
  database: { url: gate.cluster.url, cli_url: gate.cluster.cli_url },
  routes: [{ name: 'a', auth: 'none', upstream: 'http://127.0.0.1:1' }],
}
writeFileSync(file, JSON.stringify(written))
const ask = (...args: string[]): Promise<Ran> => runCommand([...args, '--config', file])
const empty = (): Promise<unknown> => owner.query('DELETE FROM dropgate.revocations')

async function insert(columns: Record<string, unknown>, client = cli): Promise<string> {
  const names = Object.keys(columns)
  const { rows } = await client.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()}) RETURNING id`,
    Object.values(columns),
  )
  return rows[0].id
}

t.test('each filter of list, alone and with others', async (t) => {
  const hour = 3_600_000
  const ids = {
    alice: await insert({ subject: 'alice', session_id: 's1', reason: 'x' }),
    bob: await insert({ subject: 'bob', issued_before: new Date() }),
    tenant: await insert({ tenant: 'acme' }),
    network: await insert({ network: '10.1.0.0/16', claims: { '/role': 'admin', '/n': 3 } }),
    ended: await insert({ subject: 'carl', expires_at: new Date(Date.now() - hour) }),
    everyone: await insert({ everyone: true, issued_before: new Date(0 + 1e12) }, owner),
  }
  const name = Object.fromEntries(Object.entries(ids).map(([key, id]) => [id, key]))
  const list = async (filter: object): Promise<string> =>
    (await listRevocations(cli, 'dropgate', { limit: 50, ...filter }))
      .map(({ id }) => name[id])
      .join()
  const cases: readonly (readonly [object, string])[] = [
    [{}, 'everyone,network,tenant,bob,alice'],
    [{ expired: true }, 'everyone,ended,network,tenant,bob,alice'],
    [{ limit: 2 }, 'everyone,network'],
    [{ target: { subject: 'alice' } }, 'alice'],
    [{ target: { subject: 'alice', session_id: 's2' } }, ''],
    [{ target: { subject: 'carl' } }, ''],
    [{ target: { network: '10.1.2.3' } }, 'network'],
    [{ target: { network: '10.0.0.0/8' } }, ''],
    [{ target: { claims: { '/role': 'admin' } } }, 'network'],
    [{ target: { claims: { '/n': '3' } } }, ''],
    [{ target: { everyone: true } }, 'everyone'],
    [{ unmatched: true }, 'tenant'],
    [{ by: 'cli' }, 'network,tenant,bob,alice'],
    [{ since: { ago: '1 hours' }, limit: 1 }, 'everyone'],
    [{ since: { time: '2199-01-01' } }, ''],
  ]
  for (const [filter, expected] of cases)
    t.equal(await list(filter), expected, JSON.stringify(filter))
  const all = await listRevocations(cli, 'dropgate', { limit: 50, expired: true })
  t.match(Object.fromEntries(all.map((row) => [name[row.id], row])), {
    alice: { state: 'block', target: 'session s1 and subject alice' },
    bob: { state: 'cutoff', unmatched: false },
    tenant: { unmatched: true },
    ended: { state: 'expired', target: 'subject carl' },
  })
})

t.test('list as a command: a table, a list as JSON, and wrong use', async (t) => {
  const [plain, json, some, none, more, ...wrong] = await Promise.all([
    ask('list'),
    ask('list', '--all', '--json'),
    ask('list', '--subject', 'alice', '--since', '2h', '--by', 'cli'),
    ask('list', '--since', '2199-01-01'),
    ask('list', '--limit', '1'),
    ask('list', '--limit', '0'),
    ask('list', '--all', '--active'),
    ask('list', '--network', '10.0.0.1/8'),
    ask('list', '--since', 'soon'),
  ])
  t.match(plain.out, /^id +state +target +written +issued before +by +reason\n/)
  t.match(plain.out, /\n\d+ +block, unmatched +tenant acme +\d{4}-\d\d-\d\d \d\d:\d\dZ +cli\n/)
  t.equal(JSON.parse(json.out).length, 6)
  t.match(JSON.parse(json.out)[0], { everyone: true, state: 'cutoff', target: 'everyone' })
  t.equal(some.out.trim().split('\n').length, 3)
  t.equal(none.out, '(no rows)\n')
  t.match(more.out, /\nmore rows than --limit 1\n$/)
  for (const { exit, err } of wrong) {
    t.ok(exit === 1 || exit === 2)
    t.match(err, /\n {2}hint: /)
  }
  await empty()
})

t.test(
  'revoke, show and lift tell a story: receipts, history, also of a row that is gone',
  async (t) => {
    const revoked = await ask('revoke', '--subject', 'dora', '--reason', 'lost laptop', '--wait')
    const [, id = ''] =
      /^revoked: row (\d+), subject dora, from now on; lift it with `dropgate lift \1`\n/.exec(
        revoked.out,
      ) ?? []
    t.ok(id, revoked.out + revoked.err)
    const [text, json] = await Promise.all([ask('show', id), ask('show', id, '--json')])
    t.match(
      text.out,
      new RegExp(
        `^row ${id} +a block: it stands until it ends or is lifted; \`dropgate lift ${id}\`\n`,
      ),
    )
    t.match(
      text.out,
      /\ntarget +subject dora\nreason +lost laptop\nwritten +\S+ \S+Z \(\d+ s ago\) by cli, dropgate revoke\nuntil +no end\n/,
    )
    t.match(text.out, /\n[0-9a-f]{8} +after [\d.]+ ms +0 /)
    const found = JSON.parse(json.out)
    t.match(found, {
      id,
      row: { id, subject: 'dora', state: 'block', target: 'subject dora' },
      gates: [{ gate: /^[0-9a-f-]{36}$/, cuts: 0 }],
      history: [{ action: 'inserted a block', by: 'cli' }],
    })
    t.type(found.gates[0].ms, 'number')
    const lifted = await ask('lift', id)
    t.match(
      lifted.out,
      new RegExp(
        `^lifted: row ${id}, subject dora; it is a cutoff now: tokens issued before \\S+ \\S+Z stay revoked; \`dropgate lift ${id} --forget\``,
      ),
    )
    t.match(
      (await ask('lift', id)).out,
      /^nothing to lift: row \d+, subject dora, is a cutoff already/,
    )
    t.match(
      (await ask('lift', id, '--forget')).out,
      /^deleted: row \d+, subject dora; tokens issued earlier are valid again\n$/,
    )
    const gone = await ask('show', id)
    t.match(
      gone.out,
      new RegExp(
        `^row ${id} +is not in the table: deleted \\S+ \\S+Z \\(\\d+ s ago\\) by cli\ntarget +subject dora\nreason +lost laptop\n`,
      ),
    )
    t.match(gone.out, /inserted a block[\s\S]*lifted[\s\S]*changed nothing[\s\S]*deleted/)
    t.match(JSON.parse((await ask('show', id, '--json')).out), {
      row: null,
      gates: [],
      history: { length: 4 },
    })
  },
)

t.test('show asks the gates where nobody has; no such row, a canary, wrong use', async (t) => {
  const id = await insert({ subject: 'emil', issued_before: new Date(Date.now() - 5000) })
  const { rows } = await owner.query('SELECT row_id FROM dropgate.canary(1000)')
  const canary = rows[0].row_id
  const [quiet, asked, none, ofCanary, word, alone] = await Promise.all([
    ask('show', id),
    ask('show', id, '--wait'),
    ask('show', '999999'),
    ask('show', canary),
    ask('show', 'emil'),
    ask('show', id, '--timeout', '1s'),
  ])
  t.match(
    quiet.out,
    new RegExp(`^row ${id} +a cutoff: older tokens are refused, newer ones are not\n`),
  )
  t.match(quiet.out, /\nissued before +\S+ \S+Z \(\d+ s ago\)\n/)
  t.match(asked.out, /\n[0-9a-f]{8} +after [\d.]+ ms +0 /)
  t.match(none, { exit: 1, err: /no revocation with id 999999, and none was deleted\n {2}hint: / })
  t.match(ofCanary, { exit: 1, err: /is a canary/ })
  t.match(word, {
    exit: 2,
    err: /"emil" is not the id of a revocation\n {2}hint: .*`dropgate who emil`/,
  })
  t.match(alone, { exit: 2, err: /--timeout is given without --wait/ })
  await empty()
})

t.test('revoke says what a cutoff does, and until when', async (t) => {
  const [cutoff, signIn, until] = await Promise.all([
    ask('revoke', '--subject', 'fay', '--issued-before', '2026-01-02 03:04:05Z'),
    ask('revoke', '--subject', 'fay', '--signed-in-before', '2026-01-02 03:04:05Z'),
    ask('revoke', '--subject', 'fay', '--expires', '2199-01-01Z'),
  ])
  t.match(
    cutoff.out,
    /^revoked: row (\d+), subject fay, tokens issued before 2026-01-02 03:04:05Z; newer ones are not denied; take it back with `dropgate lift \1 --forget`\n$/,
  )
  t.match(signIn.out, /, sign-ins before 2026-01-02 03:04:05Z; /)
  t.match(until.out, /, from now on until 2199-01-01 00:00:00Z; lift it with /)
  await empty()
})

t.test('status of a gate that is ready, in words and as JSON', async (t) => {
  const [text, json] = await Promise.all([ask('status'), ask('status', '--json')])
  t.equal(text.exit, 0, text.err)
  t.match(text.out, /^this gate +ready\n +[0-9a-f-]{36}, dropgate \S+, port \d+\n +started /)
  t.match(text.out, /\nrevocations +0 rows in force, feed following, proved \d+ ms ago/)
  t.match(text.out, /\npolicy +gate [0-9a-f]{12}, active since /)
  t.match(text.out, /\nworker 0 +listening, policy [0-9a-f]{12}, 0 open\nworker 1 /)
  t.match(text.out, /\nissuer +http:\S+: 1 key, fetched /)
  t.match(text.out, /\n1 gate of this database, 1 ready:\ngate +ready +host +pid +version +policy /)
  t.match(text.out, /\n[0-9a-f]{8} \* +yes .* gate [0-9a-f]{12} /)
  const { id } = JSON.parse(json.out)
  t.match(JSON.parse(json.out), {
    ready: true,
    reasons: [],
    feed: { state: 'following' },
    workers: { length: 2 },
    gates: [{ id, ready: true, heard: true, policies: { gate: /^[0-9a-f]{12}$/ } }],
    problems: { gate: null, database: null },
  })
})

t.test('status without one of the two, or without both', async (t) => {
  const other = (name: string, parts: object): string => {
    const path = join(gate.folder, name)
    writeFileSync(path, JSON.stringify({ ...written, ...parts }))
    return path
  }
  const nowhere = 'postgres://cli@127.0.0.1:1/none'
  const noDatabase = other('a.yaml', { database: { url: nowhere } })
  const noGate = other('b.yaml', { admin: { port: 1, token_file: 'no-such' } })
  const neither = other('c.yaml', { admin: { port: 1, token_file: 'admin.token' }, database: { url: nowhere } }) // biome-ignore format: a line
  const [first, second, third, json] = await Promise.all([
    runCommand(['status', '--config', noDatabase]),
    runCommand(['status', '--config', noGate]),
    runCommand(['status', '--config', neither]),
    runCommand(['status', '--config', noGate, '--json']),
  ])
  t.equal(first.exit, 0)
  t.match(first.out, /\ndatabase +cannot be asked for the other gates: /)
  t.equal(second.exit, 1)
  t.match(second.out, /^this gate +does not answer: .*no-such/)
  t.match(second.out, /\n1 gate of this database, 1 ready:\n/)
  t.same([third.exit, third.out], [1, ''])
  t.match(third.err, /no gate answers at http:\/\/127\.0\.0\.1:1/)
  t.match(JSON.parse(json.out), {
    ready: false,
    reasons: { length: 1 },
    gates: [{ ready: true }],
    problems: { gate: { code: 'ERR_CONFIG_FILE', hint: String }, database: null },
  })
})

t.test('a gate that has fallen silent is not ready, whatever it said last', async (t) => {
  const { rows } = await owner.query('SELECT id, host, pid, version FROM dropgate.gates')
  await gate.gate.close()
  // What a gate leaves behind that was killed: its last word, which was that it is ready.
  const { id, host, pid, version } = rows[0]
  await owner.query(
    `INSERT INTO dropgate.gates (id, host, pid, version, started_at, seen_at, ready, fresh_at, rows, allows, matches, peppers, token_lifetime, policies)
     VALUES ($1, $2, $3, $4, now(), now() - interval '9 s', true, now(), 0, '10 min', '{}', '{}', '1 h', '{"gate": "r1"}')`,
    [id, host, pid, version],
  )
  await until(
    'its admin port is closed',
    async () => (await askStatus(file)).problems.gate !== null,
  )
  const { exit, out } = await ask('status')
  t.equal(exit, 1)
  t.match(out, /^this gate +does not answer: no gate answers at /)
  t.match(out, /\n1 gate of this database, 0 ready, 1 silent:\n/)
  t.match(out, /\n[0-9a-f]{8} +no, silent for \d+ s /)
  t.match(JSON.parse((await ask('status', '--json')).out), { ready: false, gates: [{ id, ready: false, heard: false }] }) // biome-ignore format: a line
})
