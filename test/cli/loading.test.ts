/** What a command loads: only what it needs, so that it starts in a moment. Counted in the real process, module by module. */
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { startPostgres } from '../harness/postgres.ts'

const cluster = await startPostgres()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-loading-'))
t.teardown(async () => {
  await cluster.close()
  rmSync(folder, { recursive: true })
})
const config = join(folder, 'dropgate.yaml')
writeFileSync(config, `database: {url: "${cluster.url}", cli_url: "${cluster.cli_url}"}\n`)

/** Writes down the URL of each module that the process loads. */
const counter = join(folder, 'counter.mjs')
writeFileSync(
  counter,
  `import { appendFileSync } from 'node:fs'
import { registerHooks } from 'node:module'
registerHooks({
  load(url, context, next) {
    appendFileSync(process.env.LOADED, url + '\\n')
    return next(url, context)
  },
})
`,
)

/** @returns the packages and the folders of src/ that were loaded */
async function loadedBy(...args: readonly string[]): Promise<ReadonlySet<string>> {
  const list = join(folder, `${args[0]}.txt`)
  const child = spawn(process.execPath, ['--import', counter, 'src/main.ts', ...args], {
    env: { ...process.env, LOADED: list },
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const status = await new Promise((done) => child.once('exit', done))
  if (status !== 0) throw new Error(`${args.join(' ')} ended with ${status}`)
  const urls = readFileSync(list, 'utf8').split('\n')
  const names = urls.map((url) => {
    const [, name] = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url) ?? []
    return name ?? /\/(src\/[^/]+)/.exec(url)?.[1] ?? ''
  })
  return new Set(names)
}

const dependencies = Object.keys(
  JSON.parse(readFileSync('package.json', 'utf8')).dependencies as object,
)

t.test('--version loads no package but the one that reads arguments', async (t) => {
  const loaded = await loadedBy('--version')
  t.ok(loaded.has('src/cli'))
  t.same(
    dependencies.filter((name) => loaded.has(name)),
    ['commander'],
  )
})

t.test('list loads what reads the configuration and asks the database', async (t) => {
  const loaded = await loadedBy('list', '--config', config)
  t.same(
    dependencies.filter((name) => loaded.has(name)),
    ['ajv', 'commander', 'pg', 'yaml'],
  )
  t.same(
    [...loaded].filter((name) => name.startsWith('src/')).sort(),
    ['cli', 'config', 'domain', 'embedded', 'errors.ts', 'main.ts', 'store'].map(
      (each) => `src/${each}`,
    ),
  )
})
