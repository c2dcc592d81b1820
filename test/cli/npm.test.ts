/** The documented ways to run a gate, each stopped for real: what is open ends in peace, and nothing is left behind. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import t from 'tap'
import { GateProcess, gateCommand } from '../harness/gate-process.ts'
import { startPostgres } from '../harness/postgres.ts'
import { Upstream } from '../harness/upstream.ts'
import { until } from '../harness/wait.ts'

const cluster = await startPostgres()
const upstream = new Upstream()
await upstream.open()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-npm-'))
t.teardown(async () => {
  upstream.close()
  await cluster.close()
  rmSync(folder, { recursive: true })
})
mkdirSync(join(folder, 'bundles'))
cpSync('bundles/gate.tar.gz', join(folder, 'bundles', 'gate.tar.gz'))
mkdirSync(join(folder, 'node_modules/.bin'), { recursive: true })
symlinkSync(resolve('bin/dropgate.js'), join(folder, 'node_modules/.bin/dropgate'))
const config = join(folder, 'dropgate.yaml')
writeFileSync(
  config,
  `listen: {port: 0}
admin: {port: 0, token_file: admin.token}
database: {url: "${cluster.url}"}
decision_log: {file: decisions.jsonl}
workers: 1
limits: {max_lag: 30s}
routes: [{name: public, path: /public, auth: none, labels: {visibility: public}, upstream: "${upstream.origin}"}]
`,
)

/** Ends the answers that have begun. */
let release = (): void => {}
upstream.answer = (socket) => {
  socket.write('HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab')
  release = () => socket.write('cd')
}

const ways = {
  npm: ['npm', 'run', '-s', 'dropgate', '--'],
  npx: ['npx', '--prefix', folder, 'dropgate'],
  direct: gateCommand,
} as const

/** The tests may run under npm themselves. */
const env = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith('npm_')),
)

class Running extends GateProcess {
  port = 0

  constructor(command: readonly string[]) {
    super([...command, 'serve', '--config', config], env)
  }

  override async ready(): Promise<number> {
    this.port = await super.ready()
    return this.port
  }

  /** A request whose answer has begun. */
  async open(): Promise<Response> {
    return await fetch(`http://127.0.0.1:${this.port}/public/a`)
  }

  get drains(): boolean {
    return this.count('draining;') > 0
  }

  /** No process of the group is there any more. */
  get isGone(): boolean {
    try {
      process.kill(-this.pid, 0)
      return false
    } catch {
      return true
    }
  }

  portIsFree(): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = connect(this.port, '127.0.0.1')
      socket.once('connect', () => {
        socket.destroy()
        resolve(false)
      })
      socket.once('error', () => resolve(true))
    })
  }
}

interface Case {
  readonly way: keyof typeof ways
  readonly signal: NodeJS.Signals
  readonly to: 'the process' | 'the group'
  readonly exit: number | string
}

const cases: readonly Case[] = [
  { way: 'npm', signal: 'SIGTERM', to: 'the process', exit: 0 },
  { way: 'npm', signal: 'SIGINT', to: 'the group', exit: 0 },
  // Of these npm dies, and passes nothing on.
  { way: 'npm', signal: 'SIGHUP', to: 'the group', exit: 'SIGHUP' },
  { way: 'npm', signal: 'SIGKILL', to: 'the process', exit: 'SIGKILL' },
  // What npm passes on ends at the shell that it has put between itself and the gate.
  { way: 'npx', signal: 'SIGTERM', to: 'the process', exit: 'SIGTERM' },
  // The shell waits for the gate and then ends as the signal would have ended it, and npm as the shell.
  { way: 'npx', signal: 'SIGINT', to: 'the group', exit: 'SIGINT' },
  { way: 'npx', signal: 'SIGKILL', to: 'the process', exit: 'SIGKILL' },
  { way: 'direct', signal: 'SIGTERM', to: 'the process', exit: 0 },
]

for (const { way, signal, to, exit } of cases) {
  t.test(`${way}: ${signal} to ${to} drains, frees the port and leaves nothing`, async (t) => {
    const gate = new Running(ways[way])
    t.teardown(() => gate.kill())
    await gate.ready()
    const answer = await gate.open()
    process.kill(to === 'the group' ? -gate.pid : gate.pid, signal)
    await until('it drains', () => gate.drains)
    if (typeof exit === 'string' && signal !== 'SIGINT') t.equal(await gate.closed, exit)
    t.notOk(gate.isGone, 'what is open holds it')
    release()
    t.same([answer.status, await answer.text()], [200, 'abcd'], 'the request ends in peace')
    t.equal(await gate.closed, exit, 'the exit status')
    await until('no process is left', () => gate.isGone)
    t.ok(await gate.portIsFree())
    t.match(gate.err, /"msg":"stopped"/)
  })
}

t.test('asked again, it ends at once: by the second signal, under npm by the third', async (t) => {
  for (const way of ['direct', 'npm'] as const) {
    const gate = new Running(ways[way])
    t.teardown(() => gate.kill())
    await gate.ready()
    const answer = await gate.open()
    const broken = t.rejects(answer.text(), `${way}: what was open is broken off`)
    gate.child.kill('SIGTERM')
    await until('it drains', () => gate.drains)
    t.match(gate.err, `draining; a ${way === 'npm' ? 'third' : 'second'} signal ends it at once`)
    gate.child.kill('SIGTERM')
    // Two that come close together may be one to npm, and the last may find npm without its gate, which it then dies of.
    if (way === 'npm')
      await until('it has ended', () => gate.hasEnded || !gate.child.kill('SIGTERM'))
    t.match(String(await gate.closed), way === 'npm' ? /^(?:1|SIGTERM)$/ : /^1$/, way)
    await broken
    await until('no process is left', () => gate.isGone)
  }
})

t.test('npx: a further Ctrl-C ends it at once', async (t) => {
  const gate = new Running(ways.npx)
  t.teardown(() => gate.kill())
  await gate.ready()
  const answer = await gate.open()
  const broken = t.rejects(answer.text(), 'what was open is broken off')
  process.kill(-gate.pid, 'SIGINT')
  await until('it drains', () => gate.drains)
  // Where the shell is bash, npm is the parent, and each Ctrl-C reaches the gate twice.
  t.match(gate.err, /draining; a (?:second|third) signal ends it at once/)
  process.kill(-gate.pid, 'SIGINT')
  await broken
  await until('no process is left', () => gate.isGone)
})

t.test('direct: SIGHUP reloads, and the end of its parent is nothing to a gate', async (t) => {
  const shell = ['sh', '-c', '"$@" & read line', 'sh', ...ways.direct]
  const gate = new Running(shell)
  t.teardown(() => gate.kill())
  await until('the shell has ended', () => gate.hasEnded)
  await until('the gate listens', () => gate.count('listening') > 0, 120_000)
  await gate.ready()
  process.kill(-gate.pid, 'SIGHUP')
  await until('it reloads', () => gate.err.includes('the new configuration is in use'))
  const answer = await gate.open()
  release()
  t.equal(await answer.text(), 'abcd')
  process.kill(-gate.pid, 'SIGTERM')
  await until('no process is left', () => gate.isGone)
  t.match(gate.err, /"msg":"stopped"/)
})
