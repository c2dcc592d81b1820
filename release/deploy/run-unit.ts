/** See unit.ts, which calls it: `run-unit.ts FOLDER`, in a network of its own. The folder is /opt/dropgate of the unit. */
import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { GateProcess } from '../../test/harness/gate-process.ts'
import { startPostgres } from '../../test/harness/postgres.ts'
import { Upstream } from '../../test/harness/upstream.ts'
import { until } from '../../test/harness/wait.ts'

const [installed = ''] = process.argv.slice(2)
const root = join(import.meta.dirname, '../..')
const shipped = join(root, 'deploy/systemd')
const unit = readFileSync(join(shipped, 'dropgate.service'), 'utf8')
const say = (text: string): void => void process.stdout.write(`${text}\n`)
const home = mkdtempSync(join(tmpdir(), 'dropgate-unit-'))
const credentials = '/run/credentials/dropgate.service'

/** All values of a setting of the unit, in its order. */
function settings(name: string): string[] {
  return [...unit.matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value]) => value!)
}

/** The system calls of sets such as @system-service. */
function calls(names: readonly string[]): Set<string> {
  return new Set(
    names.flatMap((name) => {
      if (!name.startsWith('@')) return [name]
      const { stdout } = spawnSync('systemd-analyze', ['syscall-filter', name], {
        encoding: 'utf8',
      })
      const listed = stdout.split('\n').map((line) => line.trim())
      return [...calls(listed.filter((each) => each !== name && /^[@a-z]/.test(each)))]
    }),
  )
}

function writeFilter(): string {
  const file = join(home, 'filter.bpf')
  // What is always permitted stays.
  const always = calls(['@default'])
  const allowed = new Set(always)
  for (const line of settings('SystemCallFilter')) {
    const named = calls(line.replace('~', '').split(' '))
    for (const each of named) {
      if (!line.startsWith('~')) allowed.add(each)
      else if (!always.has(each)) allowed.delete(each)
    }
  }
  ok(allowed.size > 200)
  const families = settings('RestrictAddressFamilies').join(' ').split(' ')
  const done = spawnSync(
    '/usr/bin/python3',
    [join(import.meta.dirname, 'filter.py'), file, ...families],
    {
      input: [...allowed].join('\n'),
      encoding: 'utf8',
    },
  )
  equal(done.status, 0, done.stderr)
  return file
}

/** The command of the unit behind all that systemd would do before it. */
function contained(): string[] {
  const environment = settings('Environment').map((each) => each.replace('%d', credentials))
  const set = [
    'STATE_DIRECTORY=/var/lib/dropgate',
    'LOGS_DIRECTORY=/var/log/dropgate',
    `CREDENTIALS_DIRECTORY=${credentials}`,
    'NOTIFY_SOCKET=/run/systemd/notify',
    'PATH=/usr/local/bin:/usr/bin:/bin',
    ...environment,
  ]
  const etc = ['ssl', 'hosts', 'nsswitch.conf', 'passwd', 'ld.so.cache']
  const bwrap = [
    ...['bwrap', '--seccomp', '3', '--ro-bind', '/usr', '/usr', '--tmpfs', '/usr/local/bin'],
    ...['bin', 'sbin', 'lib', 'lib64'].flatMap((each) => ['--symlink', `usr/${each}`, `/${each}`]),
    ...['--ro-bind', realpathSync(process.execPath), '/usr/local/bin/node'],
    ...etc.flatMap((each) => ['--ro-bind-try', `/etc/${each}`, `/etc/${each}`]),
    ...['--ro-bind', `${home}/etc`, '/etc/dropgate', '--ro-bind', installed, '/opt/dropgate'],
    ...[
      '--bind',
      `${home}/state`,
      '/var/lib/dropgate',
      '--bind',
      `${home}/log`,
      '/var/log/dropgate',
    ],
    ...[
      '--ro-bind',
      `${home}/credentials`,
      credentials,
      '--ro-bind',
      `${home}/run`,
      '/run/systemd',
    ],
    ...['--bind', `${home}/proc`, '/proc', '--dev', '/dev', '--tmpfs', '/tmp'],
    ...['--unshare-user', '--uid', '65532', '--gid', '65532', '--cap-drop', 'ALL', '--clearenv'],
    ...set.flatMap((each) => ['--setenv', ...each.split(/=(.*)/s, 2)]),
  ]
  const script =
    'mount -t proc -o subset=pid,hidepid=invisible proc "$0/proc" && exec "$@" 3<"$0/filter.bpf"'
  const command = settings('ExecStart')[0]!.split(' ')
  return [
    ...['unshare', '--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', script, home],
    ...bwrap,
    ...command,
  ]
}

async function receive() {
  const script = join(root, 'test/harness/notify-receiver.py')
  const receiver = spawn('python3', [script, join(home, 'run/notify')])
  let text = ''
  receiver.stdout.on('data', (data) => {
    text += data
  })
  await until('the socket', () => text.includes('"bound"'))
  chmodSync(join(home, 'run/notify'), 0o777)
  const states = (): string[] =>
    text
      .split('\n')
      .slice(1, -1)
      .map((line) => JSON.parse(line)[0])
      .filter((first) => first !== 'BARRIER=1')
  return { states, stop: () => receiver.kill() }
}

const cluster = await startPostgres()
const upstream = new Upstream()
await upstream.open()
prepare()
const { states, stop } = await receive()
try {
  writeFilter()
  const gate = new GateProcess(contained())
  const port = await gate.ready()
  equal((await fetch(`http://127.0.0.1:${port}/public/a`)).status, 200)
  await until('ready', () => states().length === 1)
  const pid = await gate.inner()
  match(readFileSync(`/proc/${pid}/status`, 'utf8'), /^Seccomp:\t2$/m)
  const reload = (): void => void process.kill(pid, 'SIGHUP')
  rotate(pid)
  await gate.says('the decision log is open anew')
  ok(existsSync(join(home, 'log/decisions.jsonl.1')), 'rotated')
  ok(existsSync(join(home, 'log/decisions.jsonl')), 'and opened anew')
  await until('ready again', () => states().length === 3)
  reload()
  await until('ready again', () => states().length === 5)
  process.kill(pid, 'SIGTERM')
  equal(await gate.closed, 0, gate.err)
  await until('stopping', () => states().length === 6)
  deepEqual(states(), ['READY=1', 'RELOADING=1', 'READY=1', 'RELOADING=1', 'READY=1', 'STOPPING=1'])
  equal(readdirSync(join(home, 'state')).join(), 'admin.token')
  say(
    'deploy/systemd: the gate runs, tells its state, rotates its log and stops behind the filter of system calls of the unit, without',
  )
  say(
    '  capabilities, on a read-only system; the unit was analysed, and never started by a systemd',
  )
} finally {
  stop()
  upstream.close()
  await cluster.close()
  rmSync(home, { recursive: true, force: true })
}

function prepare(): void {
  for (const each of ['etc', 'state', 'log', 'credentials', 'run', 'proc'])
    mkdirSync(join(home, each))
  cpSync(join(root, 'bundles'), join(home, 'etc/bundles'), { recursive: true })
  const { host, password } = new URL(cluster.url)
  const config = readFileSync(join(shipped, 'dropgate.yaml'), 'utf8')
  // By a name, and at the port of the admin server elsewhere: the gate asks for the addresses of the name and of the machine.
  const routes = [
    `  - {name: public, path: /public, auth: none, labels: {visibility: public}, upstream: "http://localhost:${new URL(upstream.origin).port}"}`,
    '  - {name: elsewhere, path: /elsewhere, upstream: "http://192.0.2.1:8081"}',
  ]
  writeFileSync(
    join(home, 'etc/dropgate.yaml'),
    `${config.replaceAll('127.0.0.1:5432', host)}${routes.join('\n')}\n`,
  )
  writeFileSync(join(home, 'credentials/gate-password'), `${password}\n`, { mode: 0o440 })
}

/** By the shipped file, whose last line finds the gate through systemd. */
function rotate(pid: number): void {
  const file = join(home, 'logrotate.conf')
  const written = readFileSync(join(shipped, 'logrotate.conf'), 'utf8')
  const here = written
    .replace('/var/log/dropgate', join(home, 'log'))
    .replace(/systemctl reload.*/, `kill -HUP ${pid}`)
    .replace('    notifempty\n', '')
  writeFileSync(file, here, { mode: 0o644 })
  const args = ['--force', '--verbose', '--state', join(home, 'logrotate.state'), file]
  const done = spawnSync('logrotate', args, { encoding: 'utf8' })
  equal(done.status, 0, done.stderr)
}
