/** The demo's own copy of what it runs: made once, in one piece, and only where there is no configuration. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import t from 'tap'
import { demoFiles } from '../../src/cli/demo/files.ts'
import { loadConfig } from '../../src/config/load.ts'

const checkout = process.cwd()
const start = t.testdir()
process.chdir(start)
t.teardown(() => process.chdir(checkout))
const folder = resolve('dropgate-demo')

t.test('in an empty folder the demo gets a copy that it may change', async (t) => {
  const found = demoFiles('dropgate.yaml')
  t.same(found, { file: join(folder, 'dropgate.yaml'), folder, made: true })
  const { config } = loadConfig(found.file, {})
  t.equal(config.policy.bundles, join(folder, 'bundles'))
  t.ok(existsSync(join(folder, 'bundles/gate.tar.gz')))
  t.equal(
    readFileSync(join(folder, 'policies/data.json'), 'utf8'),
    readFileSync(join(checkout, 'policies/data.json'), 'utf8'),
  )
  t.notOk(existsSync(`${folder}.new`), 'nothing else is left')
})

t.test('a later demo goes on with what was changed in it', async (t) => {
  writeFileSync(join(folder, 'policies/data.json'), '{}')
  t.same(demoFiles('dropgate.yaml').made, false)
  t.equal(readFileSync(join(folder, 'policies/data.json'), 'utf8'), '{}')
})

t.test('a folder of that name that holds something else is left alone', async (t) => {
  rmSync(join(folder, 'dropgate.yaml'))
  t.throws(() => demoFiles('dropgate.yaml'), {
    code: 'ERR_CONFIG_READ',
    message: `cannot create the folder ${folder} (ENOTEMPTY)`,
    hint: /move it away/,
  })
  t.equal(readFileSync(join(folder, 'policies/data.json'), 'utf8'), '{}')
})

t.test('a configuration that is there, or named, is the one', async (t) => {
  rmSync(folder, { recursive: true })
  t.same(demoFiles('other.yaml'), { file: 'other.yaml', folder: start, made: false })
  mkdirSync('own')
  t.equal(demoFiles('own/dropgate.yaml').folder, resolve('own'))
  writeFileSync('dropgate.yaml', '')
  t.same(demoFiles('dropgate.yaml'), { file: 'dropgate.yaml', folder: start, made: false })
  t.notOk(existsSync(folder))
})
