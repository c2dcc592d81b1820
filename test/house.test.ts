/** The project keeps to its own plan: who may import whom, and documents that say what the code says. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import t from 'tap'
import { codes } from '../src/errors.ts'
import { documents } from './harness/docs.ts'
import { fastTests } from './harness/fast.ts'

const files = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((file) =>
  file.endsWith('.ts'),
)

interface Import {
  readonly from: string
  readonly to: string
  readonly typeOnly: boolean
}

const imports: Import[] = files.flatMap((file) => {
  const text = readFileSync(join('src', file), 'utf8')
  const found = text.matchAll(/^import (type )?(?:[^;'"]*? from )?'([^']+)'/gm)
  return [...found].map(([, type, to]) => ({
    from: file,
    to: to!.startsWith('.') ? relative('src', join('src', dirname(file), to!)) : to!,
    typeOnly: type !== undefined,
  }))
})

const room = (file: string): string => (file.includes('/') ? file.split('/', 1)[0]! : '')

t.test('every file says at its head what it is for', async (t) => {
  for (const file of files) {
    if (file === 'main.ts' || file.endsWith('.d.ts')) continue
    t.match(readFileSync(join('src', file), 'utf8'), /^\/\*\*/, file)
  }
})

t.test('nouns, the closed list of codes and the configuration know no room', async (t) => {
  for (const { from, to, typeOnly } of imports) {
    const noun = /^(?:domain\/|node:)/.test(to) || (typeOnly && to === 'errors.ts')
    if (room(from) === 'domain') t.ok(noun, `${from} imports ${to}`)
    if (from === 'errors.ts') t.fail(`${from} imports ${to}`)
    if (room(from) === 'config')
      t.match(to, /^(?:config\/|domain\/|errors\.ts$|node:|(?!.*\.ts$)[a-z@])/, `${from}: ${to}`)
  }
})

t.test('rooms of the request path reach each other only through the pipeline', async (t) => {
  // A room may import its own files, nouns, configuration types, codes, messages, and what is listed here.
  const allowed: Readonly<Record<string, readonly string[]>> = {
    listener: ['response/deny.ts'],
    identity: [],
    policy: [
      'rego/evaluation.ts',
      'rego/registry.ts',
      'rego/values/bytes.ts',
      'rego/values/value.ts',
    ],
    rego: [],
    revocation: [],
    route: [],
    response: ['upstream/forward.ts'],
    upstream: ['listener/headers.ts'],
    decisionlog: [],
    feed: [
      'revocation/digest.ts',
      'revocation/ledger.ts',
      'store/connect.ts',
      'store/statements.ts',
    ],
    bundle: [
      'policy/answer.ts',
      'policy/host.ts',
      'policy/input.ts',
      'policy/module.ts',
      'policy/input-usage.ts',
      'rego/registry.ts',
    ],
    fleet: ['store/connect.ts'],
    store: [],
    admin: [],
    outbound: [],
  }
  const common = /^(?:domain\/|config\/|errors\.ts$|messages\.ts$|metrics\.ts$|node:)/
  for (const { from, to, typeOnly } of imports) {
    const others = allowed[room(from)]
    if (others === undefined || !to.endsWith('.ts') || room(to) === room(from)) continue
    const fine = common.test(to) || others.includes(to) || (typeOnly && room(to) === 'store')
    t.ok(fine, `${from} imports ${to}`)
  }
})

t.test(
  'what a request meets never touches the database, the bundles or the network of the gate',
  async (t) => {
    const reached = new Set<string>()
    const follow = (file: string): void => {
      if (reached.has(file)) return
      reached.add(file)
      for (const each of imports) if (each.from === file && !each.typeOnly) follow(each.to)
    }
    follow('worker/worker.ts')
    for (const banned of ['pg', 'pg-copy-streams', 'chokidar', 'tar-stream', 'yaml', 'commander']) {
      t.notOk(reached.has(banned), `a worker loads ${banned}`)
    }
    for (const file of reached)
      t.notMatch(file, /^(?:store|feed|bundle|outbound|admin|cli)\//, file)
  },
)

t.test('each library is imported by one folder only', async (t) => {
  const rooms = new Map<string, Set<string>>()
  for (const { from, to } of imports) {
    if (to.endsWith('.ts') || to.startsWith('node:')) continue
    const name = to.startsWith('@') ? to.split('/').slice(0, 2).join('/') : to.split('/')[0]!
    rooms.set(name, (rooms.get(name) ?? new Set()).add(room(from)))
  }
  const declared = Object.keys(JSON.parse(readFileSync('package.json', 'utf8')).dependencies)
  t.same([...rooms.keys()].sort(), declared.filter((name) => name !== 'node').sort())
  // Fastify serves two ports, undici two kinds of peers; jose also signs in the demo, pg is named by the feed; yaml
  // reads the configuration and is a builtin of Rego.
  const several = new Set(['fastify', 'undici', 'jose', 'pg', 'pg-copy-streams', 'yaml'])
  for (const [name, in_] of rooms) {
    if (!several.has(name)) t.equal(in_.size, 1, `${name} is in ${[...in_].join(', ')}`)
  }
})

const architecture = readFileSync('docs/architecture.md', 'utf8')

/** The page is written for the tree in which the stages are values (exchange/stages.ts); until then these files may be missing. */
const arriving = new Set(
  existsSync('src/exchange/stages.ts')
    ? []
    : [
        'domain/form.ts',
        'domain/http.ts',
        'domain/strict-json.ts',
        'exchange/authorize.ts',
        'exchange/events.ts',
        'exchange/open-http.ts',
        'exchange/stages.ts',
        'feed/state.ts',
        'gate/readiness.ts',
        'gate/rooms.ts',
        'gate/silence.ts',
        'gate/status.ts',
        'gate/worker-slot.ts',
        'identity/binding.ts',
        'listener/drain.ts',
        'listener/node-quirks.ts',
        'policy/package.ts',
        'rego/builtin.ts',
        'worker/context.ts',
        'worker/overload.ts',
      ],
)

t.test('the architecture page names files and functions that are there', async (t) => {
  const [, table = ''] = architecture.split(/<!-- \/?decided -->/)
  const rows = [...table.matchAll(/^\|.*\| `([a-z0-9/-]+(?:\.ts|\/))`(?:: `(\w+)`)? \|$/gm)]
  t.ok(rows.length >= 60, 'a table that is read')
  for (const [, file = '', name] of rows) {
    if (arriving.has(file)) continue
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
  for (const file of fast)
    t.notMatch(file, /^test\/(?:walks|feed|store|conformance|policy)\//, file)
})
