/** Documents say what the code says. Who may import whom: house/walls.test.ts. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { codes } from '../src/errors.ts'
import { documents } from './harness/docs.ts'
import { fastTests } from './harness/fast.ts'

const files = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((file) =>
  file.endsWith('.ts'),
)

const room = (file: string): string => (file.includes('/') ? file.split('/', 1)[0]! : '')

const architecture = readFileSync('docs/architecture.md', 'utf8')

/** The page names them already. The list only shrinks. */
const arriving = new Set([
  'domain/form.ts',
  'domain/http.ts',
  'domain/strict-json.ts',
  'feed/state.ts',
  'listener/drain.ts',
  'listener/node-quirks.ts',
])

t.test('the architecture page names files and functions that are there', async (t) => {
  const [, table = ''] = architecture.split(/<!-- \/?decided -->/)
  const rows = [...table.matchAll(/^\|.*\| `([a-z0-9/-]+(?:\.ts|\/))`(?:: `(\w+)`)? \|$/gm)]
  t.ok(rows.length >= 60, 'a table that is read')
  for (const [, file = '', name] of rows) {
    if (arriving.has(file) && !existsSync(join('src', file))) continue
    const path = join('src', file)
    if (!t.ok(existsSync(path), `${file} is there`) || name === undefined) continue
    const made = new RegExp(`^(?:export )?(?:async )?(?:function|class|const) ${name}\\b`, 'm')
    t.match(readFileSync(path, 'utf8'), made, `${name} is in ${file}`)
  }
  const outside = architecture.replace(table, '')
  for (const [, file = ''] of outside.matchAll(
    /`((?:src|test|[a-z]+)\/[a-z0-9/-]+\.(?:test\.)?ts)`/g,
  )) {
    const there = existsSync(file) || existsSync(join('src', file)) || arriving.has(file)
    t.ok(there, `${file} is there`)
  }
})

t.test(
  'the architecture page has every folder of src and every law that a comment names',
  async (t) => {
    for (const folder of new Set(files.map(room))) {
      if (folder !== '') t.match(architecture, `| \`${folder}/\` |`, folder)
    }
    const [, laws = ''] = architecture.split('## The nine laws')
    for (const file of files) {
      const text = readFileSync(join('src', file), 'utf8')
      for (const [, law] of text.matchAll(/\blaws? (\d+)/g))
        t.match(laws, new RegExp(`^${law}\\. \\*\\*`, 'm'), `law ${law} of ${file}`)
    }
  },
)

t.test('a comment leads to documents of this repository only', async (t) => {
  for (const file of files) {
    const text = readFileSync(join('src', file), 'utf8')
    t.notMatch(text, /http-security|revocation-idp|postgres-feed|rego-wasm|design section/, file)
    for (const [, page = ''] of text.matchAll(/\b(docs\/[a-z-]+\.md)\b/g))
      t.ok(existsSync(page), `${page}, named by ${file}`)
  }
})

t.test('generated documents are up to date: `make docs` writes them', async (t) => {
  for (const [path, text] of documents()) t.equal(readFileSync(path, 'utf8'), text, path)
})

t.test('every code is in use, and no code is used that is not on the list', async (t) => {
  const text = files
    .filter((file) => file !== 'errors.ts')
    .map((file) => readFileSync(join('src', file), 'utf8'))
    .join('\n')
  const used = new Set(text.match(/\bERR_[A-Z_]+\b/g))
  for (const code of Object.keys(codes)) t.ok(used.has(code), `${code} is never used`)
})

t.test('`make test-fast` runs what starts neither a database nor a gate nor opa', async (t) => {
  const fast = fastTests()
  for (const file of [
    'test/house.test.ts',
    'test/route/target.test.ts',
    'test/listener/server.test.ts',
  ])
    t.ok(fast.includes(file), `${file} is in`)
  for (const file of [
    'test/feed/feed.test.ts',
    'test/store/store.test.ts',
    'test/conformance/conformance.test.ts',
    'test/policy/policy.test.ts',
  ])
    t.notOk(fast.includes(file), `${file} is out`)
  for (const file of fast) t.notMatch(file, /^test\/walks\//, file)
})
