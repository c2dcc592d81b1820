/** `dropgate dev` as a process: what is saved is decided by a moment later, unless it is bad; one Ctrl-C ends it. */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import t from 'tap'
import { freePort } from '../bench/machine.ts'
import { GateProcess, gateCommand } from '../harness/gate-process.ts'
import { startPostgres } from '../harness/postgres.ts'
import { Upstream } from '../harness/upstream.ts'
import { until } from '../harness/wait.ts'

const cluster = await startPostgres()
const upstream = new Upstream()
await upstream.open()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-dev-'))
const policies = join(folder, 'policies')
for (const name of ['policies', 'bundles']) mkdirSync(join(folder, name))
t.teardown(async () => {
  upstream.close()
  await cluster.close()
  rmSync(folder, { recursive: true })
})
const [port, adminPort] = [await freePort(), await freePort()]
const config = join(folder, 'dropgate.yaml')
writeFileSync(
  config,
  `listen: {port: ${port}}
admin: {port: ${adminPort}}
state_dir: ${folder}/state
policy: {bundles: ${folder}/bundles, decision: dev/allow}
database: {url: "${cluster.url}"}
decision_log: {file: ${folder}/decisions.jsonl}
workers: 1
routes: [{name: all, path: /, auth: none, upstream: "${upstream.origin}"}]
`,
)

const allowing = (path: string): string =>
  `package dev\n\nallow if input.parsed_path == ["${path}"]\n`
const tests = (path: string): string =>
  `package dev_test\n\nimport data.dev\n\ntest_path if dev.allow with input as {"parsed_path": ["${path}"]}\n`

/** As many editors save: into a file beside, which is then renamed. */
function save(name: string, text: string): void {
  writeFileSync(join(policies, `${name}~`), text)
  renameSync(join(policies, `${name}~`), join(policies, name))
}

const statusOf = async (path: string): Promise<number> =>
  (await fetch(`http://127.0.0.1:${port}/${path}`)).status

class DevProcess {
  readonly child = spawn(process.execPath, [resolve('src/main.ts'), 'dev', 'policies'], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  readonly ended = new Promise<number | null>((done) => this.child.once('exit', done))
  printed = ''

  constructor() {
    for (const stream of [this.child.stdout, this.child.stderr])
      stream.on('data', (data) => {
        this.printed += data
      })
  }

  /** @returns what it has printed since what the last call waited for, up to the end of this */
  async says(what: RegExp): Promise<string> {
    const found = () => what.exec(this.printed)
    await until(
      () => `${what} in ${this.printed}`,
      () => found() !== null || this.child.exitCode !== null,
      120_000,
    )
    const match = found()
    if (match === null) throw new Error(`it ended without ${what}: ${this.printed}`)
    const end = match.index + match[0].length
    const said = this.printed.slice(0, end)
    this.printed = this.printed.slice(end)
    return said
  }
}

t.test('a gate of its own decides by what was saved last and was good', async (t) => {
  save('dev.rego', allowing('one'))
  save('dev_test.rego', tests('one'))
  const dev = new DevProcess()
  t.teardown(() => dev.child.kill('SIGKILL'))
  await dev.says(new RegExp(`the gate listens on port ${port}, for operators on ${adminPort}\n`))
  await dev.says(/serving [0-9a-f]{12} after [\d.]+ s; tests PASS: 1\/1\n(?:.*\n)*.*watching policies; Ctrl-C ends it\n/)
  await until('ready', async () => (await statusOf('one')) === 200)
  t.equal(await statusOf('two'), 403)

  save('dev.rego', 'package dev\n\nallow if input.parsed_path == \n')
  t.match(await dev.says(/not loaded: [0-9a-f]{12} keeps serving\n/), /policies\/dev\.rego:\d: rego_parse_error/)
  t.same([await statusOf('one'), await statusOf('two')], [200, 403], 'the last good one')

  save('dev.rego', allowing('two'))
  t.match(await dev.says(/not loaded: .*\n/), /policies\/dev_test\.rego:5: test: data\.dev_test\.test_path fails\n/)
  t.same([await statusOf('one'), await statusOf('two')], [200, 403], 'its tests fail')

  save('dev.rego', 'package dev\n\ndefault allow := "no"\n')
  t.match(await dev.says(/not loaded: .*\n/), /the result is a string, neither/)
  t.same([await statusOf('one'), await statusOf('two')], [200, 403], 'what a gate would refuse')

  save('dev_test.rego', tests('two'))
  save('dev.rego', allowing('two'))
  save('.#dev.rego', 'the lock of an editor')
  await dev.says(/serving .*PASS: 1\/1\n/)
  t.same([await statusOf('one'), await statusOf('two')], [403, 200], 'the good one')

  dev.child.kill('SIGINT')
  t.equal(await dev.ended, 0, dev.printed)
  t.equal(dev.printed, '', 'nothing is said at the end')
  await t.rejects(statusOf('two'), 'its gate has ended')
}) // biome-ignore format: short

t.test('a gate that runs with the same configuration gets the bundles', async (t) => {
  const gate = new GateProcess([...gateCommand, 'serve', '--config', config])
  t.teardown(() => gate.kill())
  await gate.ready()
  t.equal(await statusOf('two'), 200, 'by the bundle that dev has left')
  save('dev.rego', allowing('three'))
  save('dev_test.rego', tests('three'))
  const dev = new DevProcess()
  t.teardown(() => dev.child.kill('SIGKILL'))
  await dev.says(/a gate runs with this configuration: it gets the bundles\n(?:.*\n)*.*serving .*\n(?:.*\n)*.*watching/)
  t.same([await statusOf('two'), await statusOf('three')], [403, 200])
  dev.child.kill('SIGINT')
  t.equal(await dev.ended, 0, dev.printed)
  t.equal(await statusOf('three'), 200, 'it goes on without dev')
  gate.child.kill('SIGTERM')
  t.equal(await gate.closed, 0)
}) // biome-ignore format: short
