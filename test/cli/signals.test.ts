/**
 * What signals do to a gate under the parents that it has in service: a service manager (a session of its own, no terminal,
 * standard input closed), and none at all, as process 1 of a container. npm and npx: npm.test.ts.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import {
  closeSync,
  constants,
  cpSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { Agent, get } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { DecisionEvent } from '../harness/gate.ts'
import { GateProcess, gateCommand } from '../harness/gate-process.ts'
import { startPostgres } from '../harness/postgres.ts'
import { ok, Upstream } from '../harness/upstream.ts'
import { until } from '../harness/wait.ts'

const cluster = await startPostgres()
const upstream = new Upstream()
await upstream.open()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-signals-'))
t.teardown(async () => {
  upstream.close()
  await cluster.close()
  rmSync(folder, { recursive: true })
})
cpSync('bundles', join(folder, 'bundles'), { recursive: true })
const config = join(folder, 'dropgate.yaml')
const written = `listen: {port: 0}
admin: {port: 0}
state_dir: ${folder}/state
policy: {bundles: ${folder}/bundles}
database: {url: "${cluster.url}"}
decision_log: {file: ${folder}/decisions.jsonl}
workers: 2
limits: {max_lag: 30s}
routes: [{name: public, path: /public, auth: none, labels: {visibility: public}, upstream: "${upstream.origin}"}]
`
writeFileSync(config, written)

interface Parent {
  readonly name: string
  /** What the command of the gate stands behind. */
  readonly wrapper: readonly string[]
}

const asProcess1 = [
  ['unshare', '--pid', '--fork', '--kill-child'],
  ['unshare', '--user', '--map-root-user', '--pid', '--fork', '--kill-child'],
].find(([command, ...args]) => spawnSync(command!, [...args, 'true']).status === 0)

const parents: readonly Parent[] = [
  { name: 'a service manager', wrapper: ['sh', '-c', 'exec "$@" <&-', 'sh'] },
  ...(asProcess1 === undefined ? [] : [{ name: 'nothing (process 1)', wrapper: asProcess1 }]),
]
const skip = 'this user may not make a namespace of processes (unshare --pid)'
if (asProcess1 === undefined) t.test('under nothing (process 1)', { skip }, async () => {})

/** @param env Variables for the program, which is loaded slowly then: harness/slow-load.ts. */
async function start(
  t: Test,
  { wrapper }: Parent,
  file = config,
  env?: { readonly FLAGS: string },
) {
  const [node, program] = gateCommand
  const slowly = env === undefined ? [] : ['--import', './test/harness/slow-load.ts']
  const command = [...wrapper, node, ...slowly, program, 'serve', '--config', file]
  const gate = new GateProcess(command, { ...process.env, ...env })
  t.teardown(() => gate.kill())
  const pid = await gate.inner()
  return { gate, signal: (name: NodeJS.Signals) => process.kill(pid, name) }
}

/** A request whose answer has begun. */
async function open(port: number): Promise<{ answer: Response; release: () => void }> {
  let release = (): void => {}
  upstream.answer = (socket) => {
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab')
    release = () => socket.write('cd')
  }
  return { answer: await fetch(`http://127.0.0.1:${port}/public/a`), release: () => release() }
}

for (const parent of parents) {
  t.test(
    `under ${parent.name}: SIGTERM drains, SIGHUP reloads, also while it drains`,
    async (t) => {
      const { gate, signal } = await start(t, parent)
      const { answer, release } = await open(await gate.ready())
      signal('SIGHUP')
      await gate.says('the new configuration is in use')
      signal('SIGTERM')
      await gate.says('draining; a second signal ends it at once')
      signal('SIGHUP')
      t.notOk(gate.hasEnded, 'what is open holds it')
      release()
      t.same([answer.status, await answer.text()], [200, 'abcd'], 'the request ends in peace')
      t.equal(await gate.closed, 0)
      t.equal(gate.count('stopped'), 1)
    },
  )

  t.test(`under ${parent.name}: the second signal ends it at once`, async (t) => {
    const { gate, signal } = await start(t, parent)
    const { answer } = await open(await gate.ready())
    const broken = t.rejects(answer.text(), 'what was open is broken off')
    signal('SIGTERM')
    await gate.says('draining')
    signal('SIGINT')
    t.equal(await gate.closed, 1)
    await broken
  })

  t.test(
    `under ${parent.name}: a signal before it has read its configuration counts`,
    async (t) => {
      for (const name of ['SIGTERM', 'SIGHUP'] as const) {
        // A pipe: the gate waits in the middle of its start until somebody writes.
        const pipe = join(mkdtempSync(join(folder, 'start-')), 'dropgate.yaml')
        execFileSync('mkfifo', [pipe])
        const { gate, signal } = await start(t, parent, pipe)
        const fd = await writerOf(pipe)
        signal(name)
        if (name === 'SIGHUP') {
          // What it reads at the reload.
          writeFileSync(`${pipe}.new`, written)
          renameSync(`${pipe}.new`, pipe)
        }
        writeSync(fd, written)
        closeSync(fd)
        if (name === 'SIGHUP') {
          await gate.says('the new configuration is in use')
          signal('SIGTERM')
        }
        t.equal(await gate.closed, 0, name)
      }
    },
  )

  t.test(
    `under ${parent.name}: a signal while the program is loading ends it with 0`,
    async (t) => {
      const flags = mkdtempSync(join(folder, 'loading-'))
      const { gate, signal } = await start(t, parent, '/no/such.yaml', { FLAGS: flags })
      await until('the program is loading', () => existsSync(join(flags, 'loading')))
      signal('SIGHUP')
      signal('SIGTERM')
      writeFileSync(join(flags, 'go'), '')
      t.equal(await gate.closed, 0)
      t.equal(gate.err, '', 'it did not even look for its configuration')
    },
  )
}

/** The end of a named pipe that is written to, once somebody has opened it for reading. */
async function writerOf(pipe: string): Promise<number> {
  let fd = -1
  await until('the gate reads the pipe', () => {
    try {
      fd = openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK)
      return true
    } catch {
      return false
    }
  })
  return fd
}

t.test(
  'log rotation under load: each decision stands once, whole, in one of the files',
  async (t) => {
    const { gate, signal } = await start(t, parents[0]!)
    const port = await gate.ready()
    upstream.answer = ok
    const agent = new Agent({ keepAlive: true, maxSockets: 8 })
    t.teardown(() => agent.destroy())
    const live = join(folder, 'decisions.jsonl')
    const files = [live]
    rmSync(live, { force: true })
    signal('SIGHUP')
    await gate.says('the decision log is open anew')
    const sent: string[] = []
    let goesOn = true
    const client = async (name: number): Promise<void> => {
      for (let n = 0; goesOn; n++) {
        const path = `/public/${name}-${n}`
        sent.push(path)
        await ask({ port, path, agent })
      }
    }
    const clients = Array.from({ length: 8 }, (_, i) => client(i))
    for (let n = 1; n <= 5; n++) {
      const before = sent.length
      await until('requests before the rename', () => sent.length > before + 200)
      const rotated = join(folder, `decisions.${n}.jsonl`)
      renameSync(live, rotated)
      files.push(rotated)
      const meanwhile = sent.length
      await until('requests behind the rename', () => sent.length > meanwhile + 50)
      signal('SIGHUP')
      await gate.says('the decision log is open anew', n + 1)
    }
    goesOn = false
    await Promise.all(clients)
    signal('SIGTERM')
    t.equal(await gate.closed, 0)
    const logged = files.flatMap((file) => {
      const lines = readFileSync(file, 'utf8').split('\n')
      t.equal(lines.pop(), '', 'it ends with a whole line')
      t.ok(lines.length > 0, `${lines.length} decisions in ${file}`)
      // A request that took long on a busy machine has a second record, of its end.
      const events = lines.map((line): DecisionEvent => JSON.parse(line))
      return events.filter(({ custom }) => custom.decision !== 'end').map(pathOf)
    })
    t.equal(logged.length, sent.length, 'as many decisions as requests')
    t.same(new Set(logged), new Set(sent))
  },
)

function pathOf({ input }: DecisionEvent): string {
  const { attributes } = input as {
    readonly attributes: { readonly request: { readonly http: { readonly path: string } } }
  }
  return attributes.request.http.path
}

function ask(to: { port: number; path: string; agent: Agent }): Promise<void> {
  return new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', ...to }, (res) => {
      res.resume().once('close', resolve)
    }).once('error', reject)
  })
}
