/** `who`: for a token it says what a gate does with it; for a subject what can be said without one. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { type Answer, whoHolds, whoIs } from '../../src/cli/who.ts'
import { runCommand } from '../harness/command.ts'
import { EveryWorker, TestGate } from '../harness/gate.ts'
import { until } from '../harness/wait.ts'

const pepper = 'p'.repeat(40)
const claimsOfIssuer = { tenant: '/tid', groups: '/groups', device: '/dev' }
const gate = await TestGate.start({
  prepare: (folder) => writeFileSync(join(folder, 'pepper'), pepper, { mode: 0o600 }),
  config: { revocation: { pepper_file: 'pepper' } },
  issuer: { claims: claimsOfIssuer, clock_skew: '0s' },
})
const clients = new EveryWorker(8)
const cli = await gate.revoker()
const owner = await gate.cluster.client('migrate_url')
t.teardown(async () => {
  clients.close()
  await gate.stop()
})
const file = join(gate.folder, 'dropgate.yaml')
const configure = (name: string, parts: object): string => {
  const path = join(gate.folder, name)
  const written = {
    database: { url: gate.cluster.url, cli_url: gate.cluster.cli_url },
    issuers: [
      {
        issuer: gate.issuer.url,
        audience: ['api'],
        claims: claimsOfIssuer,
        clock_skew: '0s',
        // What only the gate has: the command reads tokens without it.
        fetch: { token_file: '/no/such', headers: { 'x-key': `\${NOT_SET}` } },
      },
    ],
    revocation: { pepper_file: 'pepper' },
    routes: [{ name: 'a', upstream: 'http://127.0.0.1:1' }],
    ...parts,
  }
  writeFileSync(path, JSON.stringify(written))
  return path
}
configure('dropgate.yaml', {})

async function insert(columns: Record<string, unknown>): Promise<string> {
  const names = Object.keys(columns)
  const { rows } = await owner.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()}) RETURNING id`,
    Object.values(columns),
  )
  return rows[0].id
}

const empty = (): Promise<unknown> => owner.query('DELETE FROM dropgate.revocations')
const codeOf = async (token: string): Promise<string> => {
  const answers = await clients.ask(gate, '/orders', token)
  return [...new Set(answers.map(({ status, code }) => code ?? String(status)))].join()
}
const nowS = (): number => Math.floor(Date.now() / 1000)
const tokenOf = (subject: string, claims: Record<string, unknown> = {}): Promise<string> =>
  gate.issuer.token(subject, {
    claims: { tid: 'acme', groups: ['staff', 'ops'], dev: 'laptop', level: 3, ...claims },
  })
const rowsOf = ({ rows }: Answer): string[] => rows.map(({ id }) => id)

t.test('for one token it answers as the gate does, whatever the row names', async (t) => {
  const token = await tokenOf('alice', { act: { sub: 'service' } })
  const other = await tokenOf('bob', { tid: 'else', groups: [], dev: 'phone', level: 4, iat: nowS() + 2, sid: 'other', client_id: 'second' }) // biome-ignore format: a line
  const issuer = gate.issuer.url
  const before = (ms: number): Date => new Date(Date.now() + ms)
  const rows: readonly Record<string, unknown>[] = [
    { subject: 'alice' },
    { subject: 'alice', issuer },
    { subject: 'alice', issuer: 'https://another.example' },
    { subject: 'alice', issued_before: before(0) },
    { subject: 'alice', issued_before: before(-3_600_000) },
    { subject: 'alice', issued_before: before(-1), compare: 'auth_time' },
    { subject: 'alice', session_id: 'sid-alice' },
    { subject: 'alice', session_id: 'another' },
    { subject: 'alice', except_session_id: 'sid-alice' },
    { subject: 'alice', except_session_id: 'another' },
    { subject: 'alice', expires_at: before(3_600_000) },
    { subject: 'service' },
    { session_id: 'sid-alice' },
    { client_id: 'app' },
    { tenant: 'acme' },
    { group_value: 'ops' },
    { device_id: 'laptop' },
    { claims: { '/level': 3 } },
    { claims: { '/level': '3' } },
    { claims: { '/groups': 'staff', '/level': 3 } },
    { issuer },
    { everyone: true },
    { network: '127.0.0.0/8' },
    { network: '127.0.0.0/8', subject: 'alice' },
    { network: '10.0.0.0/8' },
  ]
  let denied = 0
  for (const columns of rows) {
    await empty()
    const id = await insert(columns)
    const said = JSON.stringify(columns)
    const answers = await Promise.all(
      [token, other].map((each) => whoHolds(file, each, '127.0.0.1')),
    )
    for (const [i, each] of [token, other].entries()) {
      const expected = answers[i]!.verdict === 'blocked' ? 'ERR_REVOKED' : '200'
      await until(
        `${said}: the gate says ${expected}`,
        async () => (await codeOf(each)) === expected,
      )
      t.same(rowsOf(answers[i]!), expected === '200' ? [] : [id], said)
      if (expected !== '200') denied++
    }
  }
  t.ok(denied > 15 && denied < rows.length * 2, String(denied))
  await empty()
})

t.test('by its hash, where the pepper is at hand', async (t) => {
  const token = await tokenOf('carol')
  const revoked = await runCommand(['revoke', '--token', '-', '--config', file], token)
  t.equal(revoked.exit, 0, revoked.err)
  t.match(await whoHolds(file, token, undefined), { verdict: 'blocked', unknown: {} })
  const bare = configure('bare.yaml', { revocation: {} })
  t.match(await whoHolds(bare, token, undefined), { verdict: 'clear', unknown: { token_hash: 1 } })
  await empty()
})

t.test('what a token does not tell is counted, and only where the rest fits', async (t) => {
  const token = await tokenOf('alice')
  const certificate = 'A'.repeat(43)
  for (const columns of [
    { network: '10.0.0.0/8' },
    { network: '10.0.0.0/8', subject: 'alice' },
    { network: '10.0.0.0/8', subject: 'bob' },
    { client_cert: certificate, except_session_id: 'sid-alice' },
    { client_cert: certificate, except_session_id: 'another' },
    { key_thumbprint: certificate },
    { network: '10.0.0.0/8', issued_before: new Date(Date.now() - 3_600_000) },
  ])
    await insert(columns)
  const { verdict, unknown, rows } = await whoHolds(file, token, undefined)
  t.same([verdict, rows], ['clear', []])
  t.same(unknown, {
    network: 1,
    'network and subject': 1,
    'client_cert and except_session_id': 1,
    key_thumbprint: 1,
  })
  const within = await whoHolds(file, token, '10.1.2.3')
  t.equal(within.verdict, 'blocked')
  t.equal(within.rows.length, 2)
  await empty()
})

t.test('a token that a gate refuses anyway; one of a foreign issuer', async (t) => {
  const old = await tokenOf('alice', { iat: nowS() - 7200, exp: nowS() - 3600 })
  t.match(await whoHolds(file, old, undefined), {
    verdict: 'refused',
    token: { code: 'ERR_TOKEN_EXPIRED' },
  })
  t.equal(await codeOf(old), 'ERR_TOKEN_EXPIRED')
  const foreign = await tokenOf('alice', { iss: 'https://another.example' })
  await t.rejects(whoHolds(file, foreign, undefined), {
    code: 'ERR_USAGE',
    message: /no issuer of the configuration is "https:\/\/another\.example"/,
  })
  await t.rejects(whoHolds(file, 'x.y', undefined), { code: 'ERR_TOKEN_MALFORMED' })
})

t.test('a text that no row can hold does not stop the question', async (t) => {
  await insert({ group_value: 'staff' })
  const denied = await tokenOf('alice', { note: 'a\0b' })
  await until('it is denied', async () => (await codeOf(denied)) === 'ERR_REVOKED')
  t.match(await whoHolds(file, denied, undefined), { verdict: 'blocked' })
  const refused = await tokenOf('a\0b')
  t.equal(await codeOf(refused), 'ERR_TOKEN_CLAIMS')
  t.match(await whoHolds(file, refused, undefined), {
    verdict: 'refused',
    token: { code: 'ERR_TOKEN_CLAIMS' },
  })
  await empty()
})

t.test('a token issued within the same second as a cutoff', async (t) => {
  const second = nowS()
  const token = await tokenOf('dora', { iat: second })
  await insert({ subject: 'dora', issued_before: new Date(second * 1000) })
  const answer = await whoHolds(file, token, undefined)
  t.match(answer, { verdict: 'blocked', token: { retry: true } })
  await empty()
})

t.test('for a subject: blocked, cut off, partly, clear; and what was done before', async (t) => {
  const issuer = gate.issuer.url
  const verdictOf = async (of?: string): Promise<string> => (await whoIs(file, 'erin', of)).verdict
  t.equal(await verdictOf(), 'clear')
  const cases: readonly (readonly [Record<string, unknown>, string, string])[] = [
    [{ subject: 'erin' }, 'blocked', 'blocked'],
    [{ subject: 'erin', issuer }, 'partly', 'blocked'],
    [{ subject: 'erin', issuer: 'https://another.example' }, 'clear', 'clear'],
    [{ subject: 'erin', issued_before: new Date() }, 'cutoff', 'cutoff'],
    [{ subject: 'erin', session_id: 's' }, 'partly', 'partly'],
    [{ subject: 'erin', except_session_id: 's' }, 'partly', 'partly'],
    [{ subject: 'erin', expires_at: new Date(Date.now() + 60_000) }, 'blocked', 'blocked'],
    [{ everyone: true }, 'blocked', 'blocked'],
    [{ issuer }, 'partly', 'blocked'],
    [{ subject: 'frank' }, 'clear', 'clear'],
    [{ group_value: 'ops' }, 'clear', 'clear'],
  ]
  for (const [columns, anywhere, there] of cases) {
    await insert(columns)
    t.equal(await verdictOf(), anywhere, JSON.stringify(columns))
    t.equal(await verdictOf(issuer), there, JSON.stringify(columns))
    await empty()
  }
  // What a purge leaves behind hits only tokens that have expired.
  await insert({ subject: 'old', issued_before: new Date(Date.now() - 90 * 86_400_000) })
  t.equal((await runCommand(['purge', '--config', file])).exit, 0)
  t.match((await owner.query('SELECT everyone FROM dropgate.revocations')).rows, [
    { everyone: true },
  ])
  t.equal(await verdictOf(), 'clear')
  await empty()
  await insert({ group_value: 'ops', network: '10.0.0.0/8' })
  await insert({ group_value: 'ops' })
  t.same((await whoIs(file, 'erin', undefined)).unknown, {
    group_value: 1,
    'group_value and network': 1,
  })
  await empty()
  const { rows } = await cli.query(
    "INSERT INTO dropgate.revocations (subject, reason) VALUES ('gina', 'left') RETURNING id",
  )
  const { id } = rows[0]
  const blocked = await whoIs(file, 'gina', undefined)
  t.match(blocked, {
    verdict: 'blocked',
    history: [],
    rows: [{ id, reason: 'left', created_by: 'cli' }],
  })
  await cli.query('UPDATE dropgate.revocations SET issued_before = now() WHERE id = $1', [id])
  t.match(await whoIs(file, 'gina', undefined), {
    verdict: 'cutoff',
    history: [{ action: 'inserted a block' }, { action: 'lifted', by: 'cli', row_id: id }],
  })
  await cli.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
  t.match(await whoIs(file, 'gina', undefined), {
    verdict: 'clear',
    rows: [],
    history: [
      { action: 'inserted a block' },
      { action: 'lifted' },
      { action: 'deleted', by: 'cli' },
    ],
  })
})

t.test('a token of one of many tenants is looked up by the issuer that it names', async (t) => {
  const entra = {
    issuer: 'https://login.example/{tenantid}/v2.0',
    tenants: 'any',
    audience: ['api'],
  }
  const many = configure('tenants.yaml', { issuers: [entra], revocation: {} })
  const tid = '9122040d-6c67-4c5b-b112-36a304b66dad'
  const iss = `https://login.example/${tid}/v2.0`
  const held = async (claims: object): Promise<Answer> =>
    await whoHolds(many, await tokenOf('kim', { iss, ...claims }), undefined)
  const id = await insert({ issuer: iss, subject: 'kim' })
  await insert({ issuer: iss.replace('9122', '9123'), subject: 'kim' })
  t.match(await held({ tid }), { issuer: iss, verdict: 'blocked' })
  t.same(rowsOf(await held({ tid })), [id])
  t.match(await held({ tid: 'another' }), { token: { code: 'ERR_TOKEN_ISSUER' } })
  await empty()
})

t.test('the command says it in sentences, and never the token', async (t) => {
  const token = await tokenOf('hugo')
  const id = await insert({ subject: 'hugo', reason: 'a\u001b[2Jb' })
  await insert({ group_value: 'auditors' })
  const who = (args: readonly string[], input = '') =>
    runCommand(['who', ...args, '--config', file], input)
  const [blocked, clear, byToken, json, ...wrong] = await Promise.all([
    who(['hugo']),
    who(['ida']),
    who(['--token', '-'], `${token}\n`),
    who(['--token', '-', '--json'], token),
    who([]),
    who(['hugo', '--token', '-'], token),
    who(['--token', token]),
    who(['--token', '-', '--address', 'host'], token),
    who(['hugo', '--address', '10.0.0.1']),
    who(['--token', '-']),
  ])
  t.equal(blocked.exit, 0, blocked.err)
  t.match(
    blocked.out,
    /^hugo is blocked\.\n\nrow \d+ +block: subject hugo\nsince +\S+ \S+Z \(\d+ s ago\) by \S+\nreason +a\?\[2Jb\n/,
  )
  t.match(blocked.out, `To end the block: dropgate lift ${id}\n`)
  t.match(
    blocked.out,
    /may concern the same tokens: 1 by a group\.\n {2}pass the token: dropgate who --token - < FILE\n/,
  )
  t.match(clear.out, /^ida is not blocked: no row in force names this subject/)
  t.match(byToken.out, /^This token of hugo of \S+ is denied by 1 row\.\n/)
  t.match(byToken.out, /not checked +signature/)
  t.same(Object.keys(JSON.parse(json.out)), ['subject', 'issuer', 'verdict', 'rows', 'unknown', 'history', 'token']) // biome-ignore format: a line
  for (const { out, err } of [byToken, json, ...wrong]) {
    for (const part of token.split('.')) t.notMatch(out + err, part)
  }
  for (const { exit, err } of wrong) {
    t.equal(exit, 2, err)
    t.match(err, /\n {2}hint: /)
  }
})
