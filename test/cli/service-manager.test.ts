/** What systemd is told, by its own program, at a real socket; and that a gate needs none of it. */
import { spawn, spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { GateProcess, gateCommand } from '../harness/gate-process.ts'
import { startPostgres } from '../harness/postgres.ts'
import { until } from '../harness/wait.ts'

const cluster = await startPostgres()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-notify-'))
t.teardown(async () => {
  await cluster.close()
  rmSync(folder, { recursive: true })
})
cpSync('bundles', join(folder, 'bundles'), { recursive: true })
const config = join(folder, 'dropgate.yaml')
const written = `listen: {port: 0}
admin: {port: 0}
database: {url: "${cluster.url}"}
workers: 1
limits: {max_lag: 30s}
routes: [{name: public, auth: none, upstream: "http://127.0.0.1:9"}]
`
writeFileSync(config, written)

const isMissing = (command: string): boolean => spawnSync(command, ['--version']).status !== 0
const skip = isMissing('python3')
  ? 'python3, the receiver, is not installed'
  : isMissing('systemd-notify')
    ? 'systemd-notify is not installed'
    : false

function start(t: Test, env: NodeJS.ProcessEnv): GateProcess {
  const command = [...gateCommand, 'serve', '--config', config]
  const gate = new GateProcess(command, { ...process.env, ...env })
  t.teardown(() => gate.kill())
  return gate
}

async function receive(t: Test, socket: string) {
  const receiver = spawn('python3', ['test/harness/notify-receiver.py', socket])
  t.teardown(() => receiver.kill())
  let text = ''
  receiver.stdout.on('data', (data) => {
    text += data
  })
  await until('the socket', () => text.includes('"bound"'))
  /** Without the barriers of systemd-notify. */
  const messages = (): string[][] =>
    text
      .split('\n')
      .slice(1, -1)
      .map((line) => JSON.parse(line))
      .filter(([first]) => first !== 'BARRIER=1')
  return { messages, got: (n: number) => until(`message ${n}`, () => messages().length >= n) }
}

t.test('ready once it listens, reloading and ready again, stopping', { skip }, async (t) => {
  const socket = join(folder, 'notify')
  const { messages, got } = await receive(t, socket)
  const gate = start(t, { NOTIFY_SOCKET: socket })
  await gate.ready()
  await got(1)
  gate.child.kill('SIGHUP')
  await got(3)
  writeFileSync(config, written.replace('workers', 'wrokers'))
  gate.child.kill('SIGHUP')
  await got(5)
  writeFileSync(config, written)
  gate.child.kill('SIGTERM')
  t.equal(await gate.closed, 0)
  await got(6)
  const refused = 'the new configuration is refused, and the gate keeps the old one'
  t.match(messages(), [
    ['READY=1', /^STATUS=listening; /],
    ['RELOADING=1', /^MONOTONIC_USEC=\d+$/, 'STATUS=reloading'],
    ['READY=1', 'STATUS=the new configuration is in use'],
    ['RELOADING=1'],
    ['READY=1', `STATUS=${refused}`],
    ['STOPPING=1', 'STATUS=draining 0 open exchanges'],
  ])
})

t.test('where nothing receives, or nothing sends, the gate serves and warns once', async (t) => {
  for (const env of [{ NOTIFY_SOCKET: '/no/such' }, { NOTIFY_SOCKET: '/no/such', PATH: '/no' }]) {
    const gate = start(t, env)
    await gate.ready()
    await gate.says('systemd cannot be told in which state the gate is')
    gate.child.kill('SIGHUP')
    await gate.says('the new configuration is in use')
    gate.child.kill('SIGTERM')
    t.equal(await gate.closed, 0)
    t.equal(gate.count('systemd cannot be told'), 1)
  }
})
