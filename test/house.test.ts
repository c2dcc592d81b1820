/** Documents say what the code says. Who may import whom: house/walls.test.ts. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { codes } from '../src/errors.ts'
import { documents } from './harness/docs.ts'
import { fastTests } from './harness/fast.ts'
import { loadedWith } from './harness/imports.ts'

const files = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((file) =>
  file.endsWith('.ts'),
)

const room = (file: string): string => (file.includes('/') ? file.split('/', 1)[0]! : '')

t.test('a command loads what it needs when it runs, and the other commands do not', async (t) => {
  const loaded = loadedWith('src/cli/program.ts')
  t.ok(loaded.has('src/cli/commands/serve.ts'), 'the commands are loaded')
  for (const file of loaded)
    t.match(file, /^(?:src\/cli\/|src\/errors\.ts$|commander$|node:)/, `--version loads ${file}`)
})

const architecture = readFileSync('docs/architecture.md', 'utf8')

t.test('the architecture page names files and functions that are there', async (t) => {
  const [, table = ''] = architecture.split(/<!-- \/?decided -->/)
  const rows = [...table.matchAll(/^\|.*\| `([a-z0-9/-]+(?:\.ts|\/))`(?:: `(\w+)`)? \|$/gm)]
  t.ok(rows.length >= 60, 'a table that is read')
  for (const [, file = '', name] of rows) {
    const path = join('src', file)
    if (!t.ok(existsSync(path), `${file} is there`) || name === undefined) continue
    const made = new RegExp(`^(?:export )?(?:async )?(?:function|class|const) ${name}\\b`, 'm')
    t.match(readFileSync(path, 'utf8'), made, `${name} is in ${file}`)
  }
  const outside = architecture.replace(table, '')
  for (const [, file = ''] of outside.matchAll(
    /`((?:src|test|[a-z]+)\/[a-z0-9/-]+\.(?:test\.)?ts)`/g,
  )) {
    const there = existsSync(file) || existsSync(join('src', file))
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

t.test('each fact stands in one file', async (t) => {
  const facts: readonly (readonly [what: string, pattern: RegExp, file: string])[] = [
    ['the list of methods', /'GET',\s*'HEAD',\s*'POST'|\bGET, HEAD, POST\b/, 'domain/http.ts'],
    ['safe methods', /'GET',\s*'HEAD',\s*'OPTIONS'\]/, 'domain/http.ts'],
    [
      'the characters of a token',
      /[`^_.|~-]{4}0-9A-Za-z|A-Za-z0-9[^\]\n]*[!#$%&'*+.^`|~]{8}/,
      'domain/http.ts',
    ],
    ['names that end at each hop', /'keep-alive'/, 'domain/http.ts'],
    ['the spelling of addresses', /\bSocketAddress\b|startsWith\('::ffff:'\)/, 'domain/address.ts'],
    ['the scan of JSON with one reading', /\bnew Set\(\) : undefined\b/, 'domain/strict-json.ts'],
    ["the log's interface", /: object, message: string\): void(?! (?:\{|=>))/, 'domain/log.ts'],
    ["the socket of a session's client", /\bconnection: \{ stream\b/, 'store/connect.ts'],
    [
      "Node's internals",
      /\._paused\b|\._parent\b|\._writev?\b|\.(?:destroySoon|closeIdleConnections) = |\.emit\('(?:drain|listening)'|\.removeAllListeners\('connection'/,
      'node-quirks.ts',
    ],
  ]
  for (const [what, pattern, home] of facts) {
    const found = files.filter(
      (file) => !file.startsWith('rego/') && pattern.test(readFileSync(join('src', file), 'utf8')),
    )
    t.same(found, [home], what)
  }
})

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
