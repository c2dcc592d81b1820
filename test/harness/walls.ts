/**
 * The plan of `src/`: which folder may import which, which library is used where, which fact has which file. The rules are
 * functions over imports and texts, so that test/house/walls.test.ts can hand them what breaks them. Each returns its
 * complaints; an allowance that nothing needs any more is one too.
 */
import { stripTypeScriptTypes } from 'node:module'
import { type Node, parse } from 'acorn'
import type { Import, Source } from './imports.ts'

/**
 * The folders from top to bottom, each with what it may import of those below it: a folder, or some files of one. Steps of
 * the pipeline (`listener` to `policy`) know nothing of each other; `exchange` and `worker` put them together.
 */
export const rooms: Readonly<Record<string, readonly string[]>> = {
  'main.ts': ['cli'],
  // A command may be a whole gate (`serve`), ask one (`live`), or do alone what a gate does (`eval`, `test`, `migrate`).
  cli: [
    'gate',
    'admin',
    'bundle',
    'embedded',
    'store',
    'listener',
    'route',
    // `who` compares a token with rows as a worker does.
    'identity',
    'revocation',
    'upstream',
    'policy',
  ],
  // The control thread. Of the workers' folders it needs what it writes for them (`revocation`, keys, the policy) and what checks a
  // configuration before it is handed to them (routes, addresses).
  gate: [
    'admin',
    'fleet',
    'feed',
    'bundle',
    'embedded',
    'outbound',
    'route/table.ts',
    'identity',
    'revocation',
    'upstream/addresses.ts',
    'decisionlog/log.ts',
    'policy/package.ts',
    'policy/patch.ts',
  ],
  admin: [],
  fleet: ['store/connect.ts', 'store/database-error.ts'],
  // It is the ledger's only writer.
  feed: [
    'store/connect.ts',
    'store/database-error.ts',
    'revocation/digest.ts',
    'revocation/ledger.ts',
  ],
  // The vetting evaluates a policy as a worker does.
  bundle: [
    'policy/answer.ts',
    'policy/data-image.ts',
    'policy/body-use.ts',
    'policy/compile.ts',
    'policy/differences.ts',
    'policy/host.ts',
    'policy/input.ts',
    'policy/input-usage.ts',
    'policy/module.ts',
    'policy/package.ts',
    'policy/patch.ts',
    'policy/rule-paths.ts',
  ],
  embedded: ['store'],
  outbound: [],
  store: [],
  worker: [
    'exchange',
    'listener/server.ts',
    'route/table.ts',
    'route/target.ts',
    'identity',
    'revocation',
    'upstream',
    'response/live.ts',
    'decisionlog/queue.ts',
    'policy/engine.ts',
  ],
  exchange: [
    'listener',
    'route',
    'identity',
    'revocation',
    'upstream',
    'response',
    'decisionlog',
    'policy',
  ],
  listener: [],
  route: [],
  identity: [],
  revocation: [],
  upstream: [],
  response: [],
  decisionlog: [],
  policy: [
    'rego/evaluation.ts',
    'rego/registry.ts',
    'rego/values/bytes.ts',
    'rego/values/value.ts',
  ],
  rego: [],
}

interface Noun {
  readonly may: readonly string[]
  /** What it may name in types. */
  readonly types: readonly string[]
}

/** What every folder may import, and what that in turn knows. */
export const nouns: Readonly<Record<string, Noun>> = {
  // A message carries what a folder makes, whose type stays there: only types, so nothing is loaded with it.
  'messages.ts': {
    may: [],
    types: ['bundle', 'config', 'domain', 'errors.ts', 'identity', 'policy', 'revocation'],
  },
  config: { may: ['domain', 'errors.ts'], types: [] },
  'metrics.ts': { may: ['domain', 'errors.ts'], types: [] },
  'node-quirks.ts': { may: ['domain'], types: [] },
  domain: { may: [], types: ['errors.ts'] },
  'errors.ts': { may: [], types: [] },
}

/** Where each library may be: `may` loads it, `types` only names its types. */
export const libraries: Readonly<Record<string, Partial<Noun>>> = {
  ajv: { may: ['config'] },
  chokidar: { may: ['bundle'] },
  commander: { may: ['cli'] },
  // It owns every listener.
  fastify: { may: ['admin', 'listener'] },
  graphql: { may: ['rego'] },
  // The demo signs its own tokens.
  jose: { may: ['cli'] },
  pg: { may: ['store'], types: ['cli', 'feed', 'fleet'] },
  'pg-copy-streams': { may: ['feed'] },
  re2js: { may: ['rego'] },
  'tar-stream': { may: ['bundle'] },
  undici: { may: ['outbound', 'upstream'] },
  // The configuration is YAML, and so are the `yaml.*` builtins.
  yaml: { may: ['config', 'rego'] },
}

export function roomOf(file: string): string {
  return file.split('/', 1)[0]!
}

const isOurs = (to: string): boolean => /\.ts$/.test(to)
const isWithin = (file: string, place: string): boolean => file === place || roomOf(file) === place

/** An allowance upwards would make the table no order. */
export function tableProblems(table: typeof rooms): string[] {
  const order = Object.keys(table)
  return order.flatMap((room, rank) =>
    table[room]!.filter((place) => order.indexOf(roomOf(place)) <= rank).map(
      (place) => `${room} may import ${place}, which is not below it`,
    ),
  )
}

export function wallProblems(imports: readonly Import[]): string[] {
  return imports.flatMap(({ from, to, typeOnly }) => {
    const room = roomOf(from)
    if (!isOurs(to) || room === roomOf(to)) return []
    const noun = nouns[room]
    const allowed =
      noun === undefined
        ? [...Object.keys(nouns), ...(rooms[room] ?? [])]
        : [...noun.may, ...(typeOnly ? noun.types : [])]
    return allowed.some((place) => isWithin(to, place)) ? [] : [`${from} imports ${to}`]
  })
}

/** A folder that has no place in the plan, and a way that is open and that nothing goes. */
export function planProblems(files: readonly string[], imports: readonly Import[]): string[] {
  const known = new Set([...Object.keys(rooms), ...Object.keys(nouns)])
  const homeless = [...new Set(files.map(roomOf))].filter((room) => !known.has(room))
  const unused = Object.entries(rooms).flatMap(([room, places]) =>
    places
      .filter(
        (place) => !imports.some(({ from, to }) => roomOf(from) === room && isWithin(to, place)),
      )
      .map((place) => `${room} imports nothing of ${place}: take it out of the plan`),
  )
  return [...homeless.map((room) => `${room} has no place in the plan`), ...unused]
}

/** Circles of files, types included; each is told once, as short as it is. */
export function cycles(imports: readonly Import[]): string[] {
  const next = new Map<string, string[]>()
  for (const { from, to } of imports)
    if (isOurs(to)) next.set(from, [...(next.get(from) ?? []), to])
  const found = new Map<string, string>()
  for (const { from, to } of imports) {
    const way = wayBetween(to, from, next)
    if (way !== undefined) found.set([...way].sort().join(), [from, ...way].join(' -> '))
  }
  return [...found.values()]
}

function wayBetween(
  start: string,
  end: string,
  next: ReadonlyMap<string, readonly string[]>,
): string[] | undefined {
  const before = new Map<string, string | undefined>([[start, undefined]])
  for (const file of before.keys()) {
    if (file === end) {
      const way: string[] = []
      for (let at: string | undefined = end; at !== undefined; at = before.get(at)) way.unshift(at)
      return way
    }
    for (const to of next.get(file) ?? []) if (!before.has(to)) before.set(to, file)
  }
  return undefined
}

export function libraryProblems(
  imports: readonly Import[],
  dependencies: readonly string[],
): string[] {
  const used = imports
    .filter(({ to }) => !isOurs(to) && !to.startsWith('node:'))
    .map(({ to, ...rest }) => ({ ...rest, name: packageOf(to) }))
  const strays = used.flatMap(({ from, name, typeOnly }) => {
    const { may = [], types = [] } = libraries[name] ?? {}
    const allowed = typeOnly ? [...may, ...types] : may
    return allowed.includes(roomOf(from)) ? [] : [`${from} imports ${name}`]
  })
  const unused = Object.entries(libraries).flatMap(([name, { may = [] }]) =>
    may
      .filter(
        (room) => !used.some(({ from, ...each }) => each.name === name && roomOf(from) === room),
      )
      .map((room) => `${room} does not import ${name}: take it out of the plan`),
  )
  const undeclared = Object.keys(libraries).filter((name) => !dependencies.includes(name))
  const idle = dependencies.filter((name) => libraries[name] === undefined)
  return [
    ...strays,
    ...unused,
    ...undeclared.map((name) => `${name} is no dependency`),
    ...idle.map((name) => `the dependency ${name} has no place in the plan`),
  ]
}

function packageOf(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/')
}

/** What a worker must never load: a request never touches the database, the bundles or the network of the gate. */
const notOfWorkers =
  /^(?:(?:pg|pg-copy-streams|chokidar|tar-stream|commander|ajv)$|(?:gate|admin|fleet|feed|bundle|embedded|outbound|store|cli)\/|config\/load\.ts$)/

export function workerProblems(imports: readonly Import[]): string[] {
  const reached = new Set(['worker/worker.ts'])
  for (const file of reached)
    for (const each of imports) if (each.from === file && !each.typeOnly) reached.add(each.to)
  return [...reached].filter((to) => notOfWorkers.test(to)).map((to) => `a worker loads ${to}`)
}

export function headlessFiles(sources: readonly Source[]): string[] {
  return sources
    .filter(({ file, text }) => file !== 'main.ts' && !/^\/\*\*/.test(text))
    .map(({ file }) => `${file} does not say at its head what it is for`)
}

const mostLines = 70

/** Each with its reason. */
const mayBeLong: Readonly<Record<string, string>> = {}

export function longFunctions(
  sources: readonly Source[],
  allowed: Readonly<Record<string, string>> = mayBeLong,
): string[] {
  const found = new Map<string, number>()
  for (const { file, text } of sources) {
    for (const { name, lines } of functionsIn(text))
      if (lines > mostLines) found.set(`${file}: ${name}`, lines)
  }
  return [
    ...[...found]
      .filter(([name]) => allowed[name] === undefined)
      .map(([name, lines]) => `${name} has ${lines} lines`),
    ...Object.keys(allowed)
      .filter((name) => !found.has(name))
      .map((name) => `${name} is not long: take it out of the list`),
  ]
}

interface Measured {
  readonly name: string
  readonly lines: number
}

/** Types are blanked out in their place, so the lines stay. */
function functionsIn(text: string): Measured[] {
  const program = parse(stripTypeScriptTypes(text), {
    ecmaVersion: 'latest',
    sourceType: 'module',
    locations: true,
  })
  const found: Measured[] = []
  const visit = (node: unknown, name: string): void => {
    if (Array.isArray(node)) for (const each of node) visit(each, name)
    if (!isNode(node)) return
    const { id, key, loc, type } = node
    const own = id?.name ?? key?.name ?? name
    if (/Function|StaticBlock/.test(type))
      found.push({ name: own, lines: loc!.end.line - loc!.start.line + 1 })
    for (const [field, inner] of Object.entries(node)) if (field !== 'loc') visit(inner, own)
  }
  visit(program.body, '')
  return found
}

type AnyNode = Node & { readonly id?: { name?: string } | null; readonly key?: { name?: string } }

function isNode(value: unknown): value is AnyNode {
  return typeof (value as { type?: unknown } | null)?.type === 'string'
}

interface Fact {
  readonly fact: string
  /** The files that may say it; the first is its home. */
  readonly owners: readonly string[]
  /** How it looks where it is said again. */
  readonly said: RegExp
  /** For the test: a line that says it. */
  readonly example: string
}

export const facts: readonly Fact[] = [
  {
    fact: 'which HTTP methods there are, and which are safe',
    owners: ['domain/http.ts'],
    said: /'(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS)', '(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS)'|GET, HEAD/,
    example: "const safe = new Set(['GET', 'HEAD', 'OPTIONS'])",
  },
  {
    fact: 'the characters of a token of HTTP',
    owners: ['domain/http.ts'],
    said: /!#\$%&'\*\+/,
    example: "const token = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/",
  },
  {
    fact: 'which headers end at each hop',
    owners: ['domain/http.ts'],
    said: /proxy-connection|keep-alive\b/,
    example: "const hopByHop = ['connection', 'keep-alive', 'te']",
  },
  {
    fact: 'how a form or query is decoded',
    // rego/go/escaping.ts decodes as Go does, for `urlquery.*`, and the case is another: it must differ where Go differs.
    owners: ['domain/form.ts', 'rego/go/escaping.ts'],
    said: /replace(?:All)?\((?:'\+'|\/\\\+\/g), ' '\)/,
    example: "return decodeURIComponent(text.replaceAll('+', ' '))",
  },
  {
    fact: 'which JSON has one reading',
    // rego/values/value.ts reads Rego's terms, which are not JSON.
    owners: ['domain/strict-json.ts', 'rego/values/value.ts'],
    said: /\bendOfString\b|case '\{':/,
    example: "      case '{':",
  },
  {
    fact: 'what the gate logs with',
    owners: ['domain/log.ts'],
    said: /\b(?:info|warn|error)\(fields: /,
    example: '  readonly log: { info(fields: object, message: string): void }',
  },
  {
    fact: 'where the socket of a session of pg is',
    owners: ['store/connect.ts'],
    said: /\.connection\.stream\b|connection: \{ stream: /,
    example: 'const { stream } = client.connection.stream',
  },
  {
    fact: 'how Node works inside',
    owners: ['node-quirks.ts'],
    said: /\b(?!this)\w+\._[a-z]\w*|\.destroySoon =|getOwnPropertySymbols/,
    example: 'socket._paused = true',
  },
]

export function repeatedFacts(sources: readonly Source[], all: readonly Fact[] = facts): string[] {
  return all.flatMap(({ fact, owners, said }) =>
    sources
      .filter(({ file, text }) => !owners.includes(file) && said.test(code(text)))
      .map(({ file }) => `${file} says again ${fact}: that is for ${owners[0]}`),
  )
}

/** Without comments that have a line of their own. */
function code(text: string): string {
  return text.replace(/^[ \t]*(?:\/\/|\/?\*).*$/gm, '')
}
