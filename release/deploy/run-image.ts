/**
 * Runs the built image as compose.yaml says, with bwrap in the place of a daemon: as process 1, as user 65532, on a read-only
 * root, without capabilities. image.ts calls it: `run-image.ts FOLDER CONFIG`, in a network of its own.
 */
import { equal, match, ok } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'yaml'
import { GateProcess } from '../../test/harness/gate-process.ts'
import { Upstream } from '../../test/harness/upstream.ts'
import { until } from '../../test/harness/wait.ts'
import type { ImageConfig } from './image.ts'
import { EmptyServer } from './server.ts'

const container = join(import.meta.dirname, '../../deploy/container')
const [folder = '', json = ''] = process.argv.slice(2)
const image = JSON.parse(json) as ImageConfig
const say = (text: string): void => void process.stdout.write(`${text}\n`)

interface Service {
  readonly user: string
  readonly read_only: boolean
  readonly cap_drop: readonly string[]
  readonly command?: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  readonly secrets: readonly string[]
  readonly volumes: readonly string[]
}
const { services } = parse(readFileSync(join(container, 'compose.yaml'), 'utf8'), {
  merge: true,
}) as { services: Record<'migrate' | 'gate', Service> }

/** As the reader has it beside compose.yaml. */
const home = mkdtempSync(join(tmpdir(), 'dropgate-compose-'))
const upstream = new Upstream()
const server = new EmptyServer()
try {
  await upstream.open()
  await server.open()
  prepare()
  makeLogins()
  const database = `127.0.0.1:${server.port}`
  match(once('migrate', services.migrate.command!, database), /./)
  say('compose.yaml: logins.sh makes the logins, and `migrate` runs in the image')
  await serve(database)
} finally {
  upstream.close()
  await server.close()
  rmSync(home, { recursive: true, force: true })
}

function prepare(): void {
  for (const each of ['secrets', 'bundles', 'state']) mkdirSync(join(home, each))
  for (const name of ['postgres', 'migrator', 'gate', 'ops'])
    writeFileSync(join(home, 'secrets', `${name}-password`), `${name}-secret\n`)
  cpSync(join(container, '../../bundles/gate.tar.gz'), join(home, 'bundles/gate.tar.gz'))
  // A daemon makes the places of mounts before the root becomes read-only.
  mkdirSync(join(folder, 'etc/dropgate/bundles'), { recursive: true })
  writeFileSync(join(folder, 'etc/dropgate/dropgate.yaml'), '')
  const shipped = readFileSync(join(container, 'dropgate.yaml'), 'utf8')
  const route = `{name: public, path: /public, auth: none, labels: {visibility: public}, upstream: "${upstream.origin}"}`
  writeFileSync(join(home, 'dropgate.yaml'), `${shipped}  - ${route}\n`)
}

/** As the PostgreSQL image does with what lies in /docker-entrypoint-initdb.d. */
function makeLogins(): void {
  const args = [
    '--dev-bind',
    '/',
    '/',
    '--tmpfs',
    '/run',
    '--ro-bind',
    `${home}/secrets`,
    '/run/secrets',
  ]
  const script = join(container, 'logins.sh')
  const env = { ...process.env, PGHOST: '127.0.0.1', PGPORT: String(server.port) }
  const done = spawnSync('bwrap', [...args, script], { env, encoding: 'utf8' })
  equal(done.status, 0, done.stderr)
}

/** What a daemon makes of a service, in the words of bwrap. */
function contained(
  name: 'migrate' | 'gate',
  database: string,
  command: readonly string[],
): string[] {
  const service = services[name]
  equal(service.read_only, true)
  equal(service.cap_drop.join(), 'ALL')
  const [uid, gid] = service.user.split(':')
  const env = { DATABASE: database, ...service.environment }
  return [
    ...['bwrap', '--ro-bind', folder, '/', '--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp'],
    ...['--tmpfs', '/run', '--ro-bind', `${home}/secrets`, '/run/secrets'],
    ...service.volumes.flatMap((volume) => {
      const [from = '', to = '', mode] = volume.split(':')
      return [mode === 'ro' ? '--ro-bind' : '--bind', join(home, from), to]
    }),
    ...['--unshare-user', '--unshare-pid', '--unshare-ipc', '--unshare-uts', '--as-pid-1'],
    ...['--uid', uid!, '--gid', gid!, '--cap-drop', 'ALL', '--die-with-parent', '--clearenv'],
    ...image.Env.flatMap((each) => ['--setenv', ...each.split(/=(.*)/s, 2)]),
    ...Object.entries(env).flatMap(([key, value]) => ['--setenv', key, value]),
    ...['--chdir', image.WorkingDir, ...command],
  ]
}

/** @returns what it printed. */
function once(name: 'migrate' | 'gate', command: readonly string[], database: string): string {
  const [program, ...args] = contained(name, database, [...image.Entrypoint, ...command])
  const done = spawnSync(program!, args, { encoding: 'utf8' })
  equal(done.status, 0, `${command.join(' ')}: ${done.stderr}`)
  return done.stdout
}

async function serve(database: string): Promise<void> {
  const healthy = (): boolean => {
    const [, ...test] = image.Healthcheck.Test
    const [program, ...args] = contained('gate', database, test)
    return spawnSync(program!, args).status === 0
  }
  ok(!healthy(), 'no gate yet')
  const start = () =>
    new GateProcess(contained('gate', database, [...image.Entrypoint, ...image.Cmd]))
  const gate = start()
  const port = await gate.ready()
  const pid = await gate.inner()
  const facts = readFileSync(`/proc/${pid}/status`, 'utf8')
  match(facts, /^NSpid:\t\d+(?:\t\d+)*\t1$/m, 'process 1')
  match(facts, /^CapEff:\t0+$/m, 'no capability')
  match(facts, /^NoNewPrivs:\t1$/m)
  ok(healthy(), 'HEALTHCHECK says so too')
  match(
    once('gate', ['list', '--config', '/etc/dropgate/dropgate.yaml'], database),
    /no rows|no revocation/i,
  )
  equal(readdirSync(join(home, 'state')).join(), 'admin.token', 'all that it has written')
  const [program, ...args] = contained('gate', database, [
    'node',
    '-e',
    "require('fs').writeFileSync('/x', '')",
  ])
  match(spawnSync(program!, args, { encoding: 'utf8' }).stderr, /EROFS/)
  say(
    'the image serves: as process 1, user 65532, read-only, without capabilities; HEALTHCHECK agrees',
  )

  let release = (): void => {}
  upstream.answer = (socket) => {
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab')
    release = () => socket.write('cd')
  }
  const answer = await fetch(`http://127.0.0.1:${port}/public/a`)
  process.kill(pid, 'SIGHUP')
  await gate.says('the new configuration is in use')
  process.kill(pid, 'SIGTERM')
  await gate.says('draining')
  release()
  equal(await answer.text(), 'abcd')
  equal(await gate.closed, 0)
  const early = start()
  const first = await early.inner()
  // As soon as a container can be asked: a daemon sends it once, and kills after the grace period.
  await until('handlers', () =>
    /^SigCgt:\t[0-9a-f]*[13579bdf]$/m.test(readFileSync(`/proc/${first}/status`, 'utf8')),
  )
  process.kill(first, 'SIGTERM')
  equal(await early.closed, 0)
  say(
    'its signals: SIGHUP reloads, SIGTERM drains and ends it with 0, also in the middle of the start',
  )
}
