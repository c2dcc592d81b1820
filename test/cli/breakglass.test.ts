/** The break-glass login as commands use it: chosen by an option, absent from the gate, named where it is needed. */
import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { loadConfig, loadGateConfig } from '../../src/config/load.ts'
import { startPostgres } from '../harness/postgres.ts'

const cluster = await startPostgres()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-breakglass-'))
t.teardown(async () => {
  await cluster.close()
  rmSync(folder, { recursive: true })
})
cpSync('bundles', join(folder, 'bundles'), { recursive: true })
const routes = `
routes: [{name: public, path: /public, auth: none, upstream: "http://127.0.0.1:1"}]
`
const config = join(folder, 'dropgate.yaml')
writeFileSync(
  config,
  `database:
  url: "\${GATE_URL}"
  cli_url: "\${CLI_URL}"
  migrate_url: "\${MIGRATE_URL}"
  breakglass_url: "\${BREAKGLASS_URL}"${routes}`,
)
const without = join(folder, 'without.yaml')
writeFileSync(without, `database: {url: "\${GATE_URL}", cli_url: "\${CLI_URL}"}${routes}`)
const urls = { GATE_URL: cluster.url, CLI_URL: cluster.cli_url }
const env = { ...process.env, ...urls, BREAKGLASS_URL: cluster.breakglass_url }

async function run(
  args: readonly string[],
  { file = config, given = env }: { file?: string; given?: NodeJS.ProcessEnv } = {},
): Promise<{ exit: number; out: string; err: string }> {
  const child = spawn(process.execPath, ['src/main.ts', ...args, '--config', file], { env: given })
  const [out, err, exit] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise<number>((resolve) => child.on('close', resolve)),
  ])
  return { exit, out, err }
}

t.test('a row for everyone is refused with the option to add, and written with it', async (t) => {
  const insert = 'INSERT INTO dropgate.revocations (everyone) VALUES (true) RETURNING id'
  for (const [args, ...more] of [
    [['revoke', '--everyone', '--force']],
    [['revoke', '--network', '0.0.0.0/0', '--force']],
    [['sql'], insert],
  ] as const) {
    const refused = await run([...args, ...more])
    t.equal(refused.exit, 1, args.join(' '))
    t.match(refused.err, 'code: ERR_DATABASE_REFUSED')
    t.match(
      refused.err,
      'hint: repeat the command with --breakglass, which uses the login database.breakglass_url',
    )
    const done = await run([...args, '--breakglass', ...more])
    t.equal(done.exit, 0, done.err)
  }
  const { rows } = await (await cluster.client('migrate_url')).query(
    'SELECT id, created_by FROM dropgate.revocations WHERE everyone OR network IS NOT NULL',
  )
  t.same(
    rows.map(({ created_by }) => created_by),
    Array(3).fill('breakglass'),
  )
  t.match(await run(['lift', rows[0].id, '--breakglass']), { exit: 0, out: /lifted/ })
})

t.test('another refusal keeps its own hint', async (t) => {
  const { err } = await run(['sql', 'SELECT dropgate.mac_key()'])
  t.match(err, 'code: ERR_DATABASE_REFUSED')
  t.notMatch(err, '--breakglass')
})

t.test('--breakglass without such a login: no other login takes its place', async (t) => {
  for (const given of [env, { ...env, GATE_URL: undefined }]) {
    const { exit, err } = await run(['revoke', '--everyone', '--breakglass'], {
      file: without,
      given,
    })
    t.equal(exit, 1)
    t.match(err, 'database.breakglass_url is not set')
    t.match(err, 'hint: write database.breakglass_url in the configuration')
  }
})

t.test(
  'a gate needs no password of the other logins; config check and each command do',
  async (t) => {
    const gate = { GATE_URL: cluster.url }
    t.equal(loadGateConfig(config, gate).config.database.breakglass_url, undefined)
    t.equal(loadGateConfig(config, gate).config.database.url, cluster.url)
    t.throws(() => loadGateConfig(config, {}), { code: 'ERR_CONFIG_VARIABLE', message: /GATE_URL/ })
    t.throws(() => loadConfig(config, gate), {
      message: /CLI_URL.*MIGRATE_URL.*BREAKGLASS_URL/s,
    })
    const { err } = await run(['revoke', '--everyone', '--breakglass'], {
      given: { ...process.env, ...urls, BREAKGLASS_URL: '' },
    })
    t.match(err, 'the variable BREAKGLASS_URL is not set')
  },
)
