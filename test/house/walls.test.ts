/** `src/` keeps to its plan (test/harness/walls.ts), and each rule of the plan is seen to complain of what breaks it. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { type Import, importsIn, readSources } from '../harness/imports.ts'
import {
  cycles,
  facts,
  headlessFiles,
  libraries,
  libraryProblems,
  longFunctions,
  nouns,
  planProblems,
  repeatedFacts,
  rooms,
  tableProblems,
  wallProblems,
  workerProblems,
} from '../harness/walls.ts'

const sources = readSources()
const files = sources.map(({ file }) => file)
const imports = sources.flatMap(({ file, text }) => importsIn(file, text))
const dependencies = Object.keys(
  JSON.parse(readFileSync('package.json', 'utf8')).dependencies,
).filter((name) => name !== 'node')

const value = (from: string, to: string): Import => ({
  from,
  to,
  typeOnly: false,
  later: false,
})
const type = (from: string, to: string): Import => ({
  from,
  to,
  typeOnly: true,
  later: false,
})

t.test('every way to import is seen', async (t) => {
  // No line begins with an import, and the names are of packages: this file is scanned too.
  const text = [
    "import { a } from './a.ts'",
    "import type { B } from '../domain/b.ts'",
    "import {\n  c,\n  type D,\n} from './c.ts'",
    "import './e.ts'",
    "import pg from 'pg'",
    "export { f } from './f.ts'",
    "export type { G } from './g.ts'",
    "const later = await import('later')",
    "type Later = typeof import('node:net')",
  ].join('\n')
  t.same(importsIn('feed/x.ts', text), [
    value('feed/x.ts', 'feed/a.ts'),
    type('feed/x.ts', 'domain/b.ts'),
    value('feed/x.ts', 'feed/c.ts'),
    value('feed/x.ts', 'feed/e.ts'),
    value('feed/x.ts', 'pg'),
    value('feed/x.ts', 'feed/f.ts'),
    type('feed/x.ts', 'feed/g.ts'),
    { ...value('feed/x.ts', 'later'), later: true },
    { ...type('feed/x.ts', 'node:net'), later: true },
  ])
})

t.test('imports go down the plan, or to what every folder may know', async (t) => {
  t.same(wallProblems(imports), [])
  for (const broken of [
    value('listener/server.ts', 'response/deny.ts'),
    type('response/relay.ts', 'upstream/forward.ts'),
    type('upstream/headers.ts', 'listener/headers.ts'),
    value('policy/engine.ts', 'exchange/authorize.ts'),
    value('policy/host.ts', 'rego/go/regex.ts'),
    value('store/connect.ts', 'feed/feed.ts'),
    value('gate/gate.ts', 'cli/program.ts'),
    value('gate/gate.ts', 'exchange/pipeline.ts'),
    value('worker/worker.ts', 'gate/gate.ts'),
    value('config/options.ts', 'gate/gate.ts'),
    type('config/check.ts', 'route/table.ts'),
    value('config/load.ts', 'messages.ts'),
    value('domain/clock.ts', 'metrics.ts'),
    value('domain/clock.ts', 'errors.ts'),
    value('errors.ts', 'domain/clock.ts'),
    value('messages.ts', 'policy/host.ts'),
    type('messages.ts', 'worker/worker.ts'),
    value('node-quirks.ts', 'listener/server.ts'),
    value('rego/registry.ts', 'main.ts'),
    value('unplanned/new.ts', 'feed/feed.ts'),
  ])
    t.same(wallProblems([broken]), [`${broken.from} imports ${broken.to}`])
})

t.test('the plan is an order, whole, and no wider than what is needed', async (t) => {
  t.same(tableProblems(rooms), [])
  t.same(tableProblems({ above: ['below'], below: ['above/file.ts', 'below'] }), [
    'below may import above/file.ts, which is not below it',
    'below may import below, which is not below it',
  ])
  t.same(planProblems(files, imports), [])
  t.same(planProblems([...files, 'unplanned/new.ts'], imports), [
    'unplanned has no place in the plan',
  ])
  const without = imports.filter(({ to }) => to !== 'rego/registry.ts')
  t.same(planProblems(files, without), [
    'policy imports nothing of rego/registry.ts: take it out of the plan',
  ])
})

t.test('the architecture page lists the folders in the order of the plan', async (t) => {
  const [, listed = ''] = readFileSync('docs/architecture.md', 'utf8').split(
    '## The folders of `src/`',
  )
  const folders = [...listed.matchAll(/^\| `([a-z]+)\/` \|/gm)].map(([, folder]) => folder!)
  const planned = Object.keys(rooms).filter((room) => !room.endsWith('.ts'))
  t.same(
    folders.filter((folder) => nouns[folder] === undefined),
    planned,
  )
})

t.test('no circle of files, types included', async (t) => {
  t.same(cycles(imports), [])
  t.same(cycles([value('a/a.ts', 'a/b.ts'), type('a/b.ts', 'a/c.ts'), value('a/c.ts', 'a/a.ts')]), [
    'a/c.ts -> a/a.ts -> a/b.ts -> a/c.ts',
  ])
  t.same(cycles([value('a/a.ts', 'a/a.ts')]), ['a/a.ts -> a/a.ts'])
  t.same(cycles([value('a/a.ts', 'b.ts'), value('c.ts', 'a/a.ts'), value('c.ts', 'b.ts')]), [])
})

t.test('each library has its place', async (t) => {
  t.same(libraryProblems(imports, dependencies), [])
  for (const broken of [
    value('exchange/pipeline.ts', 'fastify'),
    value('feed/feed.ts', 'pg'),
    type('worker/worker.ts', 'pg'),
    value('bundle/watch.ts', '@scope/new'),
  ])
    t.same(libraryProblems([...imports, broken], dependencies), [
      `${broken.from} imports ${broken.to}`,
    ])
  t.same(libraryProblems(imports, [...dependencies, 'idle']), [
    'the dependency idle has no place in the plan',
  ])
  t.same(
    libraryProblems(
      imports.filter(({ to }) => to !== 'chokidar'),
      dependencies.filter((name) => name !== 'chokidar'),
    ),
    ['bundle does not import chokidar: take it out of the plan', 'chokidar is no dependency'],
  )
  t.ok(Object.keys(libraries).length >= dependencies.length)
})

t.test(
  'a worker loads neither the database, the bundles nor the network of the gate',
  async (t) => {
    t.same(workerProblems(imports), [])
    const broken = [value('policy/host.ts', 'store/connect.ts'), value('rego/go/net.ts', 'pg')]
    t.same(workerProblems([...imports, ...broken]).sort(), [
      'a worker loads pg',
      'a worker loads store/connect.ts',
      'a worker loads store/database-error.ts',
      'a worker loads store/locks.ts',
      'a worker loads store/settings.ts',
      'a worker loads store/watch.ts',
    ])
    t.same(workerProblems([...imports, type('policy/host.ts', 'bundle/watch.ts')]), [])
  },
)

t.test('every file says at its head what it is for', async (t) => {
  t.same(headlessFiles(sources), [])
  const headless = [
    { file: 'feed/a.ts', text: '// A note.\n' },
    { file: 'feed/b.ts', text: '/** What for. */\n' },
  ]
  t.same(headlessFiles(headless), ['feed/a.ts does not say at its head what it is for'])
})

t.test('a function has 70 lines at most', async (t) => {
  t.same(longFunctions(sources), [])
  const body = (lines: number): string => '  work()\n'.repeat(lines)
  const text = `
function fits(a: string): void {\n${body(68)}}
function long<T>(a: T): a is T & { b: number } {\n${body(69)}}
class C {
  readonly #field: number = 1
  #method(): void {\n${body(69)}}
  readonly arrow = async (): Promise<void> => {\n${body(69)}}
}
const given = new Map([[1, () => {\n${body(69)}}]])
`
  const named = ['long', 'method', 'arrow', 'given'].map((name) => `a.ts: ${name} has 71 lines`)
  t.same(longFunctions([{ file: 'a.ts', text }], {}), named)
  t.same(longFunctions([{ file: 'a.ts', text: 'work()' }], { 'a.ts: long': 'why' }), [
    'a.ts: long is not long: take it out of the list',
  ])
})

t.test('each fact is said once', async (t) => {
  t.same(repeatedFacts(sources), [])
  for (const each of facts) {
    const { fact, owners, example } = each
    t.same(
      repeatedFacts([{ file: 'feed/new.ts', text: `/** Head. */\n${example}\n` }], [each]),
      [`feed/new.ts says again ${fact}: that is for ${owners[0]}`],
      example,
    )
    t.same(repeatedFacts([{ file: owners[0]!, text: example }], [each]), [])
    t.same(repeatedFacts([{ file: 'feed/new.ts', text: `// ${example}` }], [each]), [])
  }
})
