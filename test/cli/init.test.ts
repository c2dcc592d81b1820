/** `init`: from its answers to a gate that revokes, by the lines that it prints. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import pg from 'pg'
import t from 'tap'
import { freePort } from '../bench/machine.ts'
import { TestIssuer } from '../harness/issuer.ts'
import { startPostgres } from '../harness/postgres.ts'
import { makePristine } from '../harness/pristine.ts'
import { Upstream } from '../harness/upstream.ts'
import { until } from '../harness/wait.ts'

const base = mkdtempSync(join(tmpdir(), 'dropgate-init-'))
t.teardown(() => rmSync(base, { recursive: true }))
const bin = join(base, 'bin')
mkdirSync(bin)
symlinkSync(join(process.cwd(), 'bin/dropgate.js'), join(bin, 'dropgate'))
// The test itself may run under npm.
const { npm_command: _command, npm_lifecycle_event: _event, ...ownEnv } = process.env
const env = { ...ownEnv, PATH: `${bin}:${process.env.PATH}` }

interface Ran {
  readonly exit: number
  readonly out: string
  readonly err: string
}

async function ended(child: ChildProcess): Promise<Ran> {
  const [out, err, exit] = await Promise.all([
    text(child.stdout!),
    text(child.stderr!),
    new Promise<number>((resolve) => child.on('close', resolve)),
  ])
  return { exit, out, err }
}

/** Lines as if they were pasted; the first that fails ends them. */
function shell(cwd: string, lines: readonly string[], more: NodeJS.ProcessEnv = {}): Promise<Ran> {
  return ended(spawn('bash', ['-ec', lines.join('\n')], { cwd, env: { ...env, ...more } }))
}

function makeFolder(name: string): string {
  const folder = join(base, name)
  mkdirSync(folder)
  return folder
}

const init = (folder: string, ...args: string[]): Promise<Ran> =>
  ended(
    spawn('dropgate', ['init', ...args], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] }),
  )
const files = ['dropgate.yaml', 'dropgate-logins.sql', 'dropgate.env']
const complete = [
  ...['--issuer', 'https://login.example.com', '--upstream', 'http://127.0.0.1:3000'],
  ...['--database', 'postgres://127.0.0.1:5432/dropgate'],
]
const variables = ['GATE', 'OPS', 'MIGRATOR', 'BREAKGLASS'].map((name) => `${name}_PASSWORD`)

t.test('an own PostgreSQL: the printed lines lead to a gate that revokes', async (t) => {
  const cluster = await startPostgres()
  const issuer = new TestIssuer()
  const upstream = new Upstream()
  await Promise.all([issuer.open(), upstream.open()])
  t.teardown(async () => {
    issuer.close()
    upstream.close()
    await cluster.close()
  })
  const admin = await makePristine(cluster.migrate_url)
  const server = new URL(cluster.url)
  const [port, adminPort] = [await freePort(), await freePort()]
  const folder = makeFolder('own')
  const made = await init(
    folder,
    ...['--issuer', issuer.url, '--upstream', upstream.origin, '--audience', 'api'],
    ...['--database', `postgres://${server.host}/access`],
    ...['--port', String(port), '--admin-port', String(adminPort)],
  )
  t.equal(made.exit, 0, made.err)
  const lines = [...made.out.matchAll(/^ {2}(\S.*)$/gm)].map(([, line]) => line!)
  t.match(lines[0], /^psql /)
  t.equal(lines.at(-1), 'dropgate serve')
  const [psql, setEnvironment] = lines

  if (spawnSync('psql', ['--version']).status === 0) {
    const ran = await shell(folder, [psql!], { PGPASSWORD: admin.password })
    t.match(ran, { exit: 0, err: '' })
  } else await runByDriver(admin.url, readFileSync(join(folder, 'dropgate-logins.sql'), 'utf8'))
  const prepared = await shell(folder, lines.slice(1, -1))
  t.match(
    prepared,
    { exit: 0, out: /1 route, 1 issuer, no problem.*applied 0001_baseline/s },
    prepared.err,
  )

  // The gate gets no password but its own.
  const password = /^GATE_PASSWORD=.*$/m.exec(
    readFileSync(join(folder, 'dropgate.env'), 'utf8'),
  )![0]
  const gate = spawn('bash', ['-c', `export ${password}; exec dropgate serve`], {
    cwd: folder,
    env,
  })
  t.teardown(() => gate.kill('SIGKILL'))
  const log = text(gate.stderr)
  gate.stdout.resume()
  const readyz = `http://127.0.0.1:${adminPort}/readyz`
  const isReady = (): Promise<boolean> =>
    fetch(readyz).then(
      ({ status }) => status === 200,
      () => false,
    )
  await until('the gate is ready', isReady, 120_000)
  const headers = { authorization: `Bearer ${await issuer.token('alice')}` }
  const ask = async (path: string): Promise<[number, unknown]> => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`, { headers })
    const body = await answer.text()
    return [answer.status, answer.status === 200 ? body : JSON.parse(body).code]
  }
  t.same(await ask('/orders'), [200, 'ok'])
  t.same(await ask('/reports'), [403, 'ERR_POLICY_DENIED'])
  const run = (line: string): Promise<Ran> => shell(folder, [setEnvironment!, line])
  t.match(await run('dropgate revoke --subject alice --wait --timeout 1m'), { exit: 0 })
  t.same(await ask('/orders'), [401, 'ERR_REVOKED'])
  t.match(await run('dropgate lift 1'), { exit: 0 })
  t.match(await run('dropgate revoke --everyone'), { exit: 1, err: /--breakglass/ })
  t.match(await run('dropgate revoke --everyone --breakglass'), { exit: 0 })
  gate.kill('SIGTERM')
  t.match(await log, '"msg":"stopped"')
})

/** The driver runs several statements as one transaction, in which no database can be made. */
async function runByDriver(url: string, sql: string): Promise<void> {
  const client = new pg.Client(url)
  await client.connect()
  for (const part of sql.split(/^(?=CREATE DATABASE|GRANT C)/m)) await client.query(part)
  await client.end()
}

t.test(
  'no file but the one with the passwords holds a password, and only its owner may read that',
  async (t) => {
    const folder = makeFolder('secrets')
    await init(folder, ...complete)
    const [config, sql, environment] = files.map((file) => readFileSync(join(folder, file), 'utf8'))
    t.equal(statSync(join(folder, 'dropgate.env')).mode & 0o777, 0o600)
    for (const name of variables) {
      const password = new RegExp(`^${name}=(\\S{32})$`, 'm').exec(environment!)![1]!
      t.notOk(config!.includes(password) || sql!.includes(password), name)
      t.match(config, `:\${${name}}@127.0.0.1:5432/dropgate"`)
    }
  },
)

t.test('what is there is not overwritten; with --force the passwords stay', async (t) => {
  const folder = makeFolder('again')
  await init(folder, ...complete)
  const before = readFileSync(join(folder, 'dropgate.env'), 'utf8')
  const refused = await init(folder, ...complete)
  t.equal(refused.exit, 2)
  t.match(refused.err, `${files.join(', ')} are there already in ${folder}`)
  writeFileSync(join(folder, 'policies/data.json'), '{}')
  const forced = await init(folder, ...complete, '--force', '--port', '9090', '--preset', 'okta')
  t.equal(forced.exit, 0, forced.err)
  t.equal(readFileSync(join(folder, 'dropgate.env'), 'utf8'), before)
  t.match(readFileSync(join(folder, 'dropgate.yaml'), 'utf8'), /port: 9090.*preset: "okta"/s)
  t.equal(
    readFileSync(join(folder, 'policies/data.json'), 'utf8'),
    '{}',
    'the policy is the user’s',
  )
})

t.test(
  'without a terminal every missing option is named, and every wrong one with what is expected',
  async (t) => {
    const folder = makeFolder('wrong')
    const none = await init(folder)
    t.equal(none.exit, 2)
    t.match(
      none.err,
      'dropgate: missing: --issuer, --upstream, --database\n  hint: e.g. `dropgate init --issuer ',
    )
    t.match((await init(folder, ...complete.slice(0, 4))).err, 'dropgate: missing: --database\n')
    for (const [option, value, problem] of [
      ['--issuer', 'http://login.example.com', /--issuer: expected an https URL/],
      ['--upstream', 'http://127.0.0.1:3000/api', /--upstream: expected an origin/],
      ['--upstream', 'http://169.254.169.254', /--upstream: .*169\.254/],
      ['--database', 'mysql://127.0.0.1/x', /--database: expected a URL such as postgres:/],
      [
        '--database',
        'postgres://a:secret@127.0.0.1/x',
        /--database: expected a URL without a login/,
      ],
      ['--database', 'postgres://127.0.0.1:5432', /--database: .*name of the database/],
      ['--database', 'postgres://a,b:x/y', /--database: /],
      ['--database', 'postgres://a/y?z=1\nDROP ROLE secret;', /--database: .*line ends/],
      ['--database', 'postgres://a/${HOME}', /--database: .*without \$\{/],
      ['--issuer', 'https://a.example/${HOME}', /--issuer: .*without \$\{/],
      ['--port', 'http', /--port: expected a whole number/],
      ['--admin-port', '8080', /--admin-port: 8080 is already used/],
      ['--preset', 'gitlab', /--preset: expected one of keycloak/],
      ['--audience', '', /--audience: /],
    ] as const) {
      const at = complete.indexOf(option)
      const others = at === -1 ? complete : complete.toSpliced(at, 2)
      const { exit, err } = await init(folder, ...others, option, value)
      t.equal(exit, 2, `${option} ${value}`)
      t.match(err, problem)
      t.notMatch(err, 'secret')
    }
    for (const file of files) t.notOk(existsSync(join(folder, file)), `${file} is not written`)
  },
)

t.test('another folder, without a policy: the printed lines lead there', async (t) => {
  const folder = makeFolder('from here')
  const made = await init(
    folder,
    ...complete,
    '--config',
    'a gate/dropgate.yaml',
    '--no-policies',
    '--json',
  )
  const { next } = JSON.parse(made.out)
  const environment = Object.fromEntries(variables.map((name) => [name, undefined]))
  t.match(await shell(folder, next.slice(1, 3), environment), { exit: 0, out: /no problem/ })
  t.notOk(existsSync(join(folder, 'a gate/policies')))
})

t.test(
  'on a terminal three questions, each asked again until its answer can be used',
  async (t) => {
    const folder = makeFolder('asked')
    const terminal = spawn('script', ['-qec', 'dropgate init', '/dev/null'], { cwd: folder, env })
    t.teardown(() => terminal.kill())
    t.teardown(() => terminal.kill())
    let out = ''
    terminal.stdout.on('data', (data) => {
      out += data
    })
    const answer = async (question: string, line: string): Promise<void> => {
      await until(
        () => `${question} in ${out}`,
        () => out.includes(question),
      )
      out = ''
      terminal.stdin.write(`${line}\n`)
    }
    await answer('claim iss [e.g. https://login.example.com]: ', 'http://login.example.com')
    await answer('expected an https URL', '')
    await answer('expected an answer such as', 'https://login.example.com')
    await answer('[http://127.0.0.1:3000]: ', '')
    await answer('[postgres://127.0.0.1:5432/dropgate]: ', 'postgres://db.example.com/access')
    await new Promise((resolve) => terminal.once('close', resolve))
    t.match(out, 'made dropgate.yaml')
    const config = readFileSync(join(folder, 'dropgate.yaml'), 'utf8')
    t.match(config, 'issuer: "https://login.example.com"')
    t.match(config, 'upstream: "http://127.0.0.1:3000"')
    t.match(config, '@db.example.com/access"')
  },
)
