/** Every line of docs/start.md, in its order: the demo in one shell, everything else in a second one. */
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { freePort } from '../bench/machine.ts'
import { startPostgres } from '../harness/postgres.ts'
import { makePristine } from '../harness/pristine.ts'
import { until } from '../harness/wait.ts'

const page = readFileSync('docs/start.md', 'utf8')
const blocks = [...page.matchAll(/(?:^ {4}.*\n)+/gm)].map(([block]) => block.replace(/^ {4}/gm, ''))
const skip = spawnSync('psql', ['--version']).status === 0 ? false : 'psql is not installed'

t.test('the first hour', { skip }, async (t) => {
  const cluster = await startPostgres()
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-start-'))
  // PostgreSQL does not run as root: it has to get through.
  chmodSync(folder, 0o711)
  const { password } = await makePristine(cluster.migrate_url)
  // So npx finds the program of this checkout, and asks no registry.
  mkdirSync(join(folder, 'node_modules/.bin'), { recursive: true })
  symlinkSync(join(process.cwd(), 'bin/dropgate.js'), join(folder, 'node_modules/.bin/dropgate'))

  const port: Record<string, string> = { 5432: new URL(cluster.url).port }
  for (const each of ['8080', '8081', '9001', '9002', '8090', '8091'])
    port[each] = String(await freePort())
  const { npm_command: _command, npm_lifecycle_event: _event, ...own } = process.env
  const env = {
    ...own,
    PGPASSWORD: password,
    DEMO_GATE_PORT: port['8080'],
    DEMO_ADMIN_PORT: port['8081'],
    DEMO_UPSTREAM_PORT: port['9001'],
    DEMO_ISSUER_PORT: port['9002'],
  }
  const withPorts = (script: string): string =>
    script.replaceAll(/(:|port )(\d{4})\b/g, (all, before, each) =>
      port[each] === undefined ? all : `${before}${port[each]}`,
    )

  const [start, ...rest] = blocks
  t.equal(start, 'npx dropgate demo\n')
  const demo = spawn('bash', ['-c', start!], { cwd: folder, env, detached: true })
  t.teardown(async () => {
    rmSync(folder, { recursive: true, force: true })
    await cluster.close()
  })
  let said = ''
  for (const stream of [demo.stdout, demo.stderr])
    stream.on('data', (data) => {
      said += data
    })
  const ended = new Promise((resolve) => demo.once('close', resolve))
  await until(
    () => `the demo is ready: ${said}`,
    () => said.includes('Ctrl-C ends'),
    120_000,
  )

  for (const command of ['list', 'build']) t.match(said, `\n  npx dropgate ${command}\n`)
  const shell = spawn('bash', ['-ec', withPorts(`exec 2>&1\n${rest.join('')}wait`)], {
    cwd: folder,
    env,
  })
  const out = await text(shell.stdout)
  t.equal(await new Promise((resolve) => shell.once('close', resolve)), 0, out)
  t.same(
    out.match(/^HTTP\/1.1 \d+/gm)?.map((line) => line.slice(-3)),
    ['200', '401', '200', '200', '401', '401', '200'],
    out,
  )
  // npx ends at once, and the gate when it has noticed that.
  const log = (): string => readFileSync(join(folder, 'my-gate/gate.log'), 'utf8')
  await until(
    () => `the gate has stopped: ${log()}`,
    () => log().includes('"msg":"stopped"'),
  )
  process.kill(-demo.pid!, 'SIGINT')
  await ended
  t.match(said, /stopping \.\.\. \d+\.\d s/)
})
