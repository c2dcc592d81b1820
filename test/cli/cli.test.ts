/** The commands as processes: what they print, and their exit status. */

import { type ChildProcess, spawn } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { tokenHash } from '../../src/domain/token-hash.ts'
import { freePort } from '../bench/machine.ts'
import { startPostgres } from '../harness/postgres.ts'
import { pause, until } from '../harness/wait.ts'

const cluster = await startPostgres()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-cli-'))
t.teardown(async () => {
  await cluster.close()
  rmSync(folder, { recursive: true })
})
const [port, adminPort] = await Promise.all([freePort(), freePort()])
mkdirSync(join(folder, 'bundles'))
cpSync('bundles/gate.tar.gz', join(folder, 'bundles', 'gate.tar.gz'))
const config = join(folder, 'dropgate.yaml')
writeFileSync(
  config,
  `listen: {port: ${port}}
admin: {port: ${adminPort}, token_file: admin.token}
database: {url: "\${DATABASE_URL}", cli_url: "\${CLI_URL}", migrate_url: "\${MIGRATE_URL}"}
decision_log: {file: decisions.jsonl}
revocation: {pepper_file: pepper}
workers: 1
limits: {max_lag: 30s}
routes: [{name: public, path: /public, auth: none, labels: {visibility: public}, upstream: "http://127.0.0.1:1"}]
`,
)
writeFileSync(join(folder, 'pepper'), 'p'.repeat(40), { mode: 0o600 })
const env = {
  ...process.env,
  DATABASE_URL: cluster.url,
  CLI_URL: cluster.cli_url,
  MIGRATE_URL: cluster.migrate_url,
}

interface Ran {
  readonly exit: number | null
  readonly out: string
  readonly err: string
}

function start(
  args: readonly string[],
  with_: NodeJS.ProcessEnv = env,
): { child: ChildProcess; ended: Promise<Ran>; err: () => string } {
  const child = spawn(process.execPath, ['src/main.ts', ...args], { env: with_ })
  let out = ''
  let err = ''
  child.stdout.on('data', (data) => {
    out += data
  })
  child.stderr.on('data', (data) => {
    err += data
  })
  const ended = new Promise<Ran>((resolve) =>
    child.on('close', (exit) => resolve({ exit, out, err })),
  )
  return { child, ended, err: () => err }
}

const run = (args: readonly string[], with_?: NodeJS.ProcessEnv): Promise<Ran> =>
  start(args, with_).ended
/** With this on standard input. */
const pipe = (input: string, ...args: string[]): Promise<Ran> => {
  const { child, ended } = start([...args, '--config', config])
  child.stdin!.end(input)
  return ended
}
const ask = (...args: string[]): Promise<Ran> => run([...args, '--config', config])

t.test('help names every command; wrong use ends with status 2 and its reason', async (t) => {
  const help = await run(['--help'])
  t.equal(help.exit, 0)
  for (const name of [
    'serve',
    'config',
    'migrate',
    'sql',
    'revoke',
    'lift',
    'list',
    'status',
    'build',
  ])
    t.match(help.out, name)
  for (const args of [
    ['nonsense'],
    ['serve', '--nonsense'],
    ['sql'],
    ['lift', 'x', '--config', config],
    ['revoke', '--config', config],
    ['list', '--limit', '-1', '--config', config],
  ]) {
    const { exit, err } = await run(args)
    t.equal(exit, 2, args.join(' '))
    t.match(err, /code: ERR_USAGE/)
  }
  const json = await run(['nonsense', '--json'])
  t.match(JSON.parse(json.err), { error: { code: 'ERR_USAGE', message: /nonsense/ } })
})

t.test('config check says what is wrong in a file, and where', async (t) => {
  const fine = await ask('config', 'check')
  t.same([fine.exit, fine.err], [0, ''])
  t.match(fine.out, /1 route, 0 issuers, no problem/)
  const meant = join(folder, 'meant.yaml')
  const every = '{issuer: "https://login.example/{tenantid}/v2.0", tenants: any, audience: [a]}'
  writeFileSync(meant, `${readFileSync(config, 'utf8')}issuers: [${every}]\n`)
  const warned = await run(['config', 'check', '--config', meant])
  t.same([warned.exit, warned.err], [0, ''])
  t.match(warned.out, /1 issuer, no problem\nwarning: issuers\[0\]\.tenants: any accepts/)
  const unset = await run(['config', 'check', '--config', config], { PATH: process.env.PATH })
  t.equal(unset.exit, 1)
  t.match(unset.err, /database\.url: the variable DATABASE_URL is not set/)
  const wrong = join(folder, 'wrong.yaml')
  writeFileSync(
    wrong,
    'databse: embedded\nroutes: [{name: a, auth: none, upstream: "http://127.0.0.1:1"}]',
  )
  for (const command of [['config', 'check'], ['serve'], ['list']]) {
    const { exit, err } = await run([...command, '--config', wrong, '--json'])
    t.equal(exit, 1)
    t.match(JSON.parse(err.trim().split('\n').at(-1)!), {
      error: { message: /databse: unknown key; did you mean database\?/ },
    })
  }
})

t.test('migrate again does nothing', async (t) => {
  const { exit, out } = await ask('migrate')
  t.same([exit, out], [0, 'nothing to do\n'])
})

t.test('a mistake in another part of the configuration does not stop a revocation', async (t) => {
  const broken = join(folder, 'broken.yaml')
  const text = readFileSync(config, 'utf8').replace('pepper_file: pepper', 'pepper_file: no-such')
  writeFileSync(broken, `${text}issuers: [{issuer: "\${IDP}", jwks_file: no-such}]\nnonsense: 1\n`)
  const { DATABASE_URL: _, ...without } = env
  const ask = (...args: string[]) => run([...args, '--config', broken], without)
  for (const args of [
    ['revoke', '--subject', 'zoe'],
    ['list'],
    ['sql', "UPDATE dropgate.revocations SET issued_before = now() WHERE subject = 'zoe'"],
    ['migrate'],
  ]) {
    const { exit, err } = await ask(...args)
    t.same([exit, err], [0, ''], args.join(' '))
  }
  t.match(await ask('sql', "DELETE FROM dropgate.revocations WHERE subject = 'zoe'"), {
    exit: 0,
    err: /^dropgate: warning: the deletion of revocation \d+ leaves no cutoff: .*\n {2}hint: .*`dropgate lift ID`.*\n$/,
  })
  t.match(await ask('live'), { exit: 1, err: /cannot read admin\.token_file/ })
  t.match(await ask('revoke', '--token', '-'), { exit: 1, err: /pepper_file: .*no-such/ })
  const { exit, err } = await ask('config', 'check', '--json')
  t.equal(exit, 1)
  t.same(
    JSON.parse(err).error.problems.map(({ path }: { path: string }) => path).sort(),
    ['database.url', 'issuers[0].audience', 'issuers[0].issuer', 'nonsense', 'revocation.pepper_file'],
  ) // biome-ignore format: a list
})

t.test('revoke, list, lift and sql work as the unprivileged revoker', async (t) => {
  const revoked = await ask('revoke', '--subject', 'alice', '--reason', 'left', '--json')
  t.equal(revoked.exit, 0, revoked.err)
  const { id } = JSON.parse(revoked.out)
  const listed = JSON.parse((await ask('list', '--json')).out)
  t.match(listed, [{ id, subject: 'alice', reason: 'left' }])
  t.match((await ask('list')).out, /alice +left|alice/)
  t.equal((await ask('lift', String(id))).exit, 0)
  t.ok(JSON.parse((await ask('list', '--json')).out)[0].issued_before, 'a cutoff stays')
  t.equal((await ask('lift', String(id), '--forget')).exit, 0)
  t.equal((await ask('lift', String(id))).exit, 1, 'not there any more')
  const inserted = await ask(
    'sql',
    "INSERT INTO dropgate.revocations (subject) VALUES ('bob') RETURNING subject",
    '--json',
  )
  t.match(JSON.parse(inserted.out), { command: 'INSERT', count: 1, rows: [{ subject: 'bob' }] })
  for (const statement of [
    'TRUNCATE dropgate.revocations',
    'DROP TABLE dropgate.revocations',
    'SELECT 1; SELECT 2',
    'INSERT INTO dropgate.revocations (everyone) VALUES (true)',
    'nonsense',
  ]) {
    const { exit, err } = await ask('sql', statement)
    t.equal(exit, 1, statement)
    t.match(err, /code: ERR_DATABASE_REFUSED/)
  }
})

t.test('a row that the database refuses is explained, with what to do about it', async (t) => {
  const cases: [args: string[], exit: number, err: RegExp][] = [
    [['sql', "INSERT INTO dropgate.revocations (reason) VALUES ('acme')"], 1, /hint: Set at least one of subject/],
    [['sql', "INSERT INTO dropgate.revocations (reason) VALUES ('acme')"], 1, /refused the statement: the revocation has no target \(23514\)/],
    [['sql', "INSERT INTO dropgate.revocations (subject) VALUES ('')"], 1, /subject is empty.*\n {2}hint: Omit subject/],
    [['sql', ''], 2, /the SQL statement is empty/],
    [['live', '--protocol', 'foo'], 2, /choices are http, websocket/],
    [['revoke', '--except-session', ''], 2, /--except-session is empty\n {2}hint/],
    [['revoke', '--network', '10.0.0.1/8'], 2, /--network: 10\.0\.0\.1\/8 has bits set after its prefix.*\n {2}hint/],
    [['revoke', '--subject', 'x', '--timeout', '1s'], 2, /--timeout is given without --wait/],
    [['revoke', '--subject', 'x', '--expires', '1h'], 1, /hint: write a time like 2026-12-31/],
    [['revoke', '--subject', 'x', '--expires', '2026-01-01'], 2, /the revocation would already have expired/],
    [['lift', '999'], 1, /hint: `dropgate list` shows the ids of all revocations/],
    [['config'], 2, /^Usage: dropgate config/],
  ] // biome-ignore format: a table
  for (const [args, exit, err] of cases) {
    const ran = args[0] === 'config' ? await run(args) : await ask(...args)
    t.same([ran.exit, err.test(ran.err)], [exit, true], `${args.join(' ')}: ${ran.err}`)
  }
  const npm = { ...env, npm_lifecycle_event: 'dropgate' }
  t.match(
    (await run(['lift', '999', '--config', config], npm)).err,
    /`npm run -s dropgate -- list`/,
  )
  const { out } = await ask('list', '--json')
  const rows = JSON.parse(out) as { id: number; subject: string }[]
  t.notOk(
    rows.some(({ subject }) => subject === 'x'),
    'what was refused is not there',
  )
  const bob = String(rows.find(({ subject }) => subject === 'bob')!.id)
  t.match((await ask('lift', bob)).out, /it is a cutoff now/)
  t.match((await ask('lift', bob)).out, /^nothing to lift/)
})

t.test(
  'revoke by a whole token on standard input sends its hash; claims and networks arrive',
  async (t) => {
    const hashed = await pipe('opaque\n', 'revoke', '--token', '-', '--json')
    t.equal(hashed.exit, 0, hashed.err)
    t.match(JSON.parse(hashed.out), {
      token_hash: tokenHash(Buffer.from('p'.repeat(40)), 'opaque').toString('hex'),
      token_id: null,
    })
    const many = ['--network', '::ffff:10.0.0.0/120', '--claim', '/a=b=c', '--claim', '/n:=3']
    const all = await ask('revoke', ...many, '--json')
    t.match(JSON.parse(all.out), { network: '10.0.0.0/24', claims: { '/a': 'b=c', '/n': 3 } })
    t.equal((await ask('revoke', '--network', '0.0.0.0/0')).exit, 1)
    t.equal((await ask('revoke', '--key', 'abc')).exit, 2)
    t.equal(
      (await ask('sql', "DELETE FROM dropgate.revocations WHERE subject IS DISTINCT FROM 'bob'"))
        .exit,
      0,
    )
  },
)

t.test(
  'serve listens, reloads and drains at SIGTERM; a second one is refused; status shows the first',
  async (t) => {
    const none = await ask('status')
    t.match(none, { exit: 1, out: /^this gate +does not answer[\s\S]*knows no gate/ })
    const { child, ended, err } = start(['serve', '--config', config])
    t.teardown(() => child.kill('SIGKILL'))
    await until('listening', () => err().includes('"msg":"listening"'))
    await until(
      'ready',
      async () => (await fetch(`http://127.0.0.1:${adminPort}/readyz`)).status === 200,
    )
    const status = await ask('status', '--json')
    t.equal(status.exit, 0)
    t.match(JSON.parse(status.out), { ready: true, ledger: { rows: 1 } })
    const second = await run(['serve', '--config', config])
    t.equal(second.exit, 1)
    t.match(second.err, /the port is in use/)
    t.equal((await fetch(`http://127.0.0.1:${port}/public`)).status, 502)

    const unmatched =
      /warning: no gate can match revocation \d+\n {2}hint: Configure a gate for tenant, or delete the row and insert what was meant\.\n/
    const insert = "INSERT INTO dropgate.revocations (tenant) VALUES ('acme')"
    t.match(await ask('sql', insert), { exit: 0, err: unmatched })
    t.match(await ask('revoke', '--tenant', 'acme', '--force'), { exit: 0, err: unmatched })

    const before = readFileSync(config, 'utf8')
    const codeAt = async (path: string) =>
      ((await (await fetch(`http://127.0.0.1:${port}${path}`)).json()) as { code: string }).code
    writeFileSync(config, before.replaceAll('/public', '/moved'))
    child.kill('SIGHUP')
    await until('SIGHUP reloads', async () => (await codeAt('/public')) === 'ERR_ROUTE_NOT_FOUND')
    writeFileSync(config, `${before}nonsense: 1\n`)
    await until('a bad one is refused with a word', () => err().includes('nonsense: unknown key'))
    t.equal(await codeAt('/public'), 'ERR_ROUTE_NOT_FOUND', 'the one before goes on')
    writeFileSync(config, before)
    await until(
      'a changed file reloads',
      async () => (await codeAt('/moved')) === 'ERR_ROUTE_NOT_FOUND',
    )

    const own = join(folder, 'next.yaml')
    mkdirSync(join(folder, 'empty'))
    const waits = before.replace(`{port: ${port}}`, `{port: ${port}, takeover: true}`)
    const write = () => writeFileSync(own, `${waits}policy: {bundles: empty}\n`)
    write()
    const next = start(['serve', '--config', own])
    t.teardown(() => next.child.kill('SIGKILL'))
    await until('it waits', () => next.err().includes('taken over once this gate is ready'))
    await until('it follows its configuration meanwhile', async () => {
      write()
      await pause(200)
      return next.err().includes('the new configuration is in use')
    })
    next.child.kill('SIGTERM')
    t.equal((await next.ended).exit, 0)
    t.notMatch(next.err(), /"msg":"listening"/)

    child.kill('SIGTERM')
    const { exit, out } = await ended
    t.same([exit, out], [0, ''])
    for (const line of err().trim().split('\n')) t.ok(JSON.parse(line).msg, line)
  },
)

t.test('an embedded database ends with its gate, however that ends', async (t) => {
  const home = join(folder, 'embedded')
  mkdirSync(home)
  for (const each of [folder, home]) chmodSync(each, 0o755)
  const own = join(home, 'dropgate.yaml')
  writeFileSync(
    own,
    `listen: {port: ${port}}
admin: {port: ${adminPort}, token_file: admin.token}
database: embedded
policy: {bundles: ../bundles}
workers: 1
routes: [{name: public, path: /public, auth: none, upstream: "http://127.0.0.1:1"}]
`,
  )
  const data = join(home, '.dropgate', 'postgres', 'data')
  for (const signals of [['SIGTERM', 'SIGTERM'], ['SIGABRT']] as const) {
    const { child, ended, err } = start(['serve', '--config', own])
    t.teardown(() => child.kill('SIGKILL'))
    await until('listening', () => err().includes('"msg":"listening"'), 60_000)
    const postmaster = Number(readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[0])
    for (const signal of signals) child.kill(signal)
    await ended
    if (signals[0] === 'SIGTERM') {
      await until('it is gone', () => !existsSync(join(data, 'postmaster.pid')))
      await until('and its process', () => {
        try {
          return !process.kill(postmaster, 0)
        } catch (error) {
          return (error as NodeJS.ErrnoException).code === 'ESRCH'
        }
      })
    }
  }
  // What nothing could end is ended by the next gate.
  const { child, ended, err } = start(['serve', '--config', own])
  t.teardown(() => child.kill('SIGKILL'))
  await until('listening', () => err().includes('"msg":"listening"'), 60_000)
  child.kill('SIGTERM')
  t.equal((await ended).exit, 0)
  t.notOk(existsSync(join(data, 'postmaster.pid')))
})
