/**
 * A file and the environment -> the frozen configuration. Everything that is wrong is said at once, each with the
 * key's path, what was expected and, for an unknown key, the nearest known one.
 */
import { accessSync, constants, readFileSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, resolve } from 'node:path'
import { createSecureContext } from 'node:tls'
import { Ajv2020, type ErrorObject } from 'ajv/dist/2020.js'
import {
  isMap,
  isScalar,
  isSeq,
  parse,
  parseDocument,
  type Scalar,
  visit,
  type Node as YamlNode,
} from 'yaml'
import { NetworkSet } from '../domain/network.ts'
import { type Code, GateError } from '../errors.ts'
import {
  type GateConfig,
  type IssuerConfig,
  type RouteConfig,
  schema,
  type Unit,
} from './options.ts'
import { readPeppers } from './peppers.ts'
import { withPreset } from './presets.ts'
import { isTrusted } from './trust.ts'

export interface Loaded {
  readonly config: GateConfig
  /** The file it came from, absolute. */
  readonly file: string
  /** Every file that was read for it, absolute. */
  readonly files: readonly string[]
}

interface Problem {
  readonly code: Code
  readonly text: string
}

interface SchemaNode {
  readonly type?: string
  readonly properties?: Readonly<Record<string, SchemaNode>>
  readonly required?: readonly string[]
  readonly items?: SchemaNode
  readonly default?: unknown
  readonly 'x-unit'?: Unit
  readonly 'x-expected'?: string
}

/**
 * @throws GateError ERR_CONFIG_*: the code of the first problem, the message one line for each.
 */
export function loadConfig(file: string, env: NodeJS.ProcessEnv): Loaded {
  const absolute = resolve(file)
  let text: string
  try {
    text = readFileSync(absolute, 'utf8')
  } catch (error) {
    throw new GateError(
      'ERR_CONFIG_READ',
      `cannot read ${absolute}: ${(error as NodeJS.ErrnoException).code}`,
      {
        cause: error,
        hint: 'name the file with --config, or run the command in the folder of dropgate.yaml',
      },
    )
  }
  const read: string[] = []
  const config = readConfig(text, dirname(absolute), env, (pem) => read.push(pem))
  return { config, file: absolute, files: [absolute, ...read] }
}

/**
 * @param folder What relative paths are relative to.
 * @param onRead Told of each file whose content goes into the configuration.
 */
export function readConfig(
  text: string,
  folder: string,
  env: NodeJS.ProcessEnv,
  onRead: (file: string) => void = () => {},
): GateConfig {
  const problems: Problem[] = []
  const written = longForms(parseYaml(text, env, problems))
  raise(problems)
  const complete = withDefaults(schema as unknown as SchemaNode, written)
  validate(complete, problems)
  raise(problems)
  const resolved = resolveUnits(
    schema as unknown as SchemaNode,
    complete,
    { folder, onRead, problems },
    '',
  )
  raise(problems)
  const config = finish(resolved as GateConfig)
  check(config, problems)
  raise(problems)
  return deepFreeze(config)
}

function raise(problems: readonly Problem[]): void {
  const [first] = problems
  if (first === undefined) return
  throw new GateError(first.code, problems.map(({ text }) => text).join('\n'), {
    hint: 'all options are in the README and in dropgate.schema.json',
  })
}

function parseYaml(text: string, env: NodeJS.ProcessEnv, problems: Problem[]): unknown {
  const document = parseDocument(text, { uniqueKeys: true, prettyErrors: true })
  const [error] = document.errors
  if (error !== undefined) {
    throw new GateError('ERR_CONFIG_READ', `not valid YAML: ${error.message}`, { cause: error })
  }
  visit(document, {
    Alias() {
      problems.push({
        code: 'ERR_CONFIG_READ',
        text: 'aliases (*name) are not supported: write the value out',
      })
    },
    Scalar(key, node, path) {
      if (key !== 'key' && typeof node.value === 'string')
        substitute(node, env, pathOf(path), problems)
    },
  })
  return document.toJS()
}

const variable = /\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}/g

/** `${NAME}` and `${NAME:-default}`; a value that is nothing but a variable may be a number or a flag. */
function substitute(node: Scalar, env: NodeJS.ProcessEnv, at: string, problems: Problem[]): void {
  const before = node.value as string
  if (!before.includes('${')) return
  const after = before.replace(variable, (_, name: string, standard: string | undefined) => {
    const value = env[name]
    if (value !== undefined && value !== '') return value
    if (standard !== undefined) return standard
    problems.push({
      code: 'ERR_CONFIG_VARIABLE',
      text: `${at}: the variable ${name} is not set and has no default`,
    })
    return ''
  })
  const alone = before.replace(variable, '') === ''
  node.value = alone && /^(?:\d{1,9}|true|false)$/.test(after) ? parse(after) : after
}

function pathOf(path: readonly unknown[]): string {
  let at = ''
  for (let i = 0; i < path.length; i++) {
    const node = path[i]
    const next = path[i + 1]
    if (isMap(node) && next !== undefined) {
      const key = (next as { key?: YamlNode }).key
      if (isScalar(key)) at += at === '' ? String(key.value) : `.${String(key.value)}`
    } else if (isSeq(node)) {
      const index = node.items.indexOf(next as never)
      if (index !== -1) at += `[${index}]`
    }
  }
  return at === '' ? 'the file' : at
}

/** `database: embedded`, a single `listen` and an issuer's preset are short for what the table describes. */
function longForms(written: unknown): unknown {
  if (typeof written !== 'object' || written === null || Array.isArray(written))
    return written ?? {}
  const { listen, database, issuers, ...rest } = written as Record<string, unknown>
  return {
    ...rest,
    ...(issuers === undefined
      ? {}
      : { issuers: Array.isArray(issuers) ? issuers.map(withPreset) : issuers }),
    listen: Array.isArray(listen) ? listen : [listen ?? {}],
    database: database === 'embedded' ? { embedded: '.dropgate/postgres' } : database,
  }
}

/** Fills in what has a default, and the groups that hold such. */
function withDefaults(node: SchemaNode, value: unknown): unknown {
  if (node.properties !== undefined) {
    if (
      value !== undefined &&
      (typeof value !== 'object' || value === null || Array.isArray(value))
    )
      return value
    const given = (value ?? {}) as Record<string, unknown>
    const out: Record<string, unknown> = { ...given }
    for (const [key, child] of Object.entries(node.properties)) {
      const filled = withDefaults(child, given[key] ?? undefined)
      if (filled !== undefined && (node.required?.includes(key) || given[key] !== undefined))
        out[key] = filled
    }
    return out
  }
  if (node.type === 'array' && Array.isArray(value) && node.items !== undefined) {
    return value.map((item) => withDefaults(node.items!, item))
  }
  return value === undefined ? node.default : value
}

const validator = new Ajv2020({ allErrors: true, verbose: true, strict: false }).compile(schema)
const maxProblems = 20

function validate(value: unknown, problems: Problem[]): void {
  if (validator(value)) return
  const seen = new Set<string>()
  // The branches of an anyOf speak for themselves only; the whole says what was expected.
  const errors = (validator.errors ?? []).filter(
    ({ schemaPath }) => !schemaPath.includes('/anyOf/'),
  )
  for (const error of errors) {
    const problem = problemOf(error)
    // One leaf can fail several keywords; the first says it all.
    const key = problem.text.split(':', 1)[0]!
    if (seen.has(key) || problems.length >= maxProblems) continue
    seen.add(key)
    problems.push(problem)
  }
}

function problemOf(error: ErrorObject): Problem {
  const { instancePath, keyword, params, parentSchema, data } = error
  const at = instancePath
    .slice(1)
    .split('/')
    .reduce(
      (path, part) =>
        /^\d+$/.test(part) ? `${path}[${part}]` : path === '' ? part : `${path}.${part}`,
      '',
    )
  const below = (key: string): string => (at === '' ? key : `${at}.${key}`)
  const expected = (node: SchemaNode | undefined): string => node?.['x-expected'] ?? 'another value'
  const node = parentSchema as SchemaNode
  if (keyword === 'additionalProperties') {
    const key = params.additionalProperty as string
    const near = nearest(key, Object.keys(node.properties ?? {}))
    return {
      code: 'ERR_CONFIG_KEY_UNKNOWN',
      text: `${below(key)}: unknown key${near === undefined ? '' : `; did you mean ${below(near)}?`}`,
    }
  }
  if (keyword === 'required') {
    const key = params.missingProperty as string
    return {
      code: 'ERR_CONFIG_VALUE',
      text: `${below(key)}: missing; expected ${expected(node.properties?.[key])}`,
    }
  }
  return {
    code: 'ERR_CONFIG_VALUE',
    text: `${at === '' ? 'the file' : at}: expected ${expected(node)}, found ${found(data)}`,
  }
}

function found(data: unknown): string {
  const text = JSON.stringify(data) ?? 'nothing'
  // A URL may hold a password.
  return text.includes('://') ? 'another text' : text.length > 60 ? `${text.slice(0, 57)}...` : text
}

/** The known key with the fewest edits, unless even that one is far. */
function nearest(key: string, known: readonly string[]): string | undefined {
  let best: string | undefined
  let least = Math.max(2, Math.floor(key.length / 2))
  for (const each of known) {
    const edits = distance(key, each)
    if (edits <= least && (best === undefined || edits < least)) {
      best = each
      least = edits
    }
  }
  return best
}

/** Levenshtein distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(
        row[j]! + 1,
        next[j - 1]! + 1,
        row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1),
      )
    }
    row = next
  }
  return row[b.length]!
}

const durationMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
}
const sizeBytes: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
}

interface Place {
  /** What relative paths are relative to. */
  readonly folder: string
  readonly onRead: (file: string) => void
  readonly problems: Problem[]
}

/** Texts with units -> numbers, paths -> absolute, PEM files -> their text. */
function resolveUnits(node: SchemaNode, value: unknown, place: Place, at: string): unknown {
  if (value === undefined) return undefined
  switch (node['x-unit']) {
    case 'duration':
      return withUnit(value as string, durationMs)
    case 'size':
      return withUnit(value as string, sizeBytes)
    case 'workers':
      return value === 'auto' ? availableParallelism() : value
    case 'path':
      return resolve(place.folder, value as string)
    case 'pem':
      return readPem(resolve(place.folder, value as string), at, place)
  }
  if (node.properties !== undefined) {
    return Object.fromEntries(
      Object.entries(value as object).map(([key, child]) => [
        key,
        resolveUnits(node.properties![key]!, child, place, at === '' ? key : `${at}.${key}`),
      ]),
    )
  }
  if (node.items?.properties !== undefined) {
    return (value as unknown[]).map((item, i) =>
      resolveUnits(node.items!, item, place, `${at}[${i}]`),
    )
  }
  return value
}

function readPem(file: string, at: string, { onRead, problems }: Place): string {
  onRead(file)
  try {
    const text = readFileSync(file, 'utf8')
    if (text.includes('-----BEGIN ')) return text
    problems.push({ code: 'ERR_CONFIG_FILE', text: `${at}: ${file} is no PEM file` })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    problems.push({ code: 'ERR_CONFIG_FILE', text: `${at}: ${file} cannot be read (${code})` })
  }
  return ''
}

function withUnit(text: string, units: Readonly<Record<string, number>>): number {
  const digits = /^[\d.]+/.exec(text)![0]
  return Math.round(Number(digits) * units[text.slice(digits.length)]!)
}

function finish(config: GateConfig): GateConfig {
  const routes = config.routes.map((route): RouteConfig => {
    const { decision, upstream } = route as { decision?: string; upstream: string }
    return {
      ...route,
      decision: decision ?? config.policy.decision,
      upstream: upstream.replace(/\/$/, ''),
      forward: {
        ...route.forward,
        ...(route.forward.remove === undefined
          ? {}
          : { remove: route.forward.remove.map((name) => name.toLowerCase()) }),
      },
    }
  })
  const { file } = config.decision_log as { file?: string }
  return { ...config, routes, decision_log: file === undefined ? { sink: 'stdout' } : { file } }
}

/** What a schema cannot say: files, references between options. */
function check(config: GateConfig, problems: Problem[]): void {
  const value = (text: string): void => {
    problems.push({ code: 'ERR_CONFIG_VALUE', text })
  }
  const { database, issuers, routes, revocation, policy } = config
  if ((database.url === undefined) === (database.embedded === undefined)) {
    value('database: expected url, or `database: embedded`')
  }
  for (const [i, issuer] of issuers.entries()) {
    checkIssuer(issuer, `issuers[${i}]`, problems)
    if (issuers.findIndex((other) => other.issuer === issuer.issuer) < i) {
      value(`issuers[${i}].issuer: ${issuer.issuer} is there twice`)
    }
  }
  for (const [i, route] of routes.entries()) {
    const at = `routes[${i}]`
    if (routes.findIndex((other) => other.name === route.name) < i)
      value(`${at}.name: ${route.name} is there twice`)
    if (route.auth === 'required' && issuers.length === 0) {
      value(`${at}.auth: required, but there are no issuers whose tokens could be accepted`)
    }
    checkRoute(route, at, value)
    const byCookie = issuers.find(({ from }) => from.some((each) => each.startsWith('cookie:')))
    if (byCookie !== undefined && route.auth === 'required' && route.origins === undefined) {
      value(
        `${at}.origins: missing, but ${byCookie.issuer} is taken from a cookie; expected the origins of the pages that may use it`,
      )
    }
    if (!isOrigin(route.upstream)) {
      value(
        `${at}.upstream: expected an origin such as http://127.0.0.1:9001, without path or credentials`,
      )
    }
  }
  if (revocation.tick * 2 > revocation.max_staleness) {
    value('revocation.tick: expected at most half of revocation.max_staleness')
  }
  if (revocation.tick < 10) value('revocation.tick: expected at least 10ms')
  if (revocation.hard_stop < revocation.max_staleness) {
    value('revocation.hard_stop: expected at least revocation.max_staleness')
  }
  for (const [i, listen] of config.listen.entries()) checkListen(listen, `listen[${i}]`, value)
  checkNetworks(config.upstream_networks.deny, 'upstream_networks.deny', value)
  if (revocation.cut_after < revocation.max_staleness) {
    value('revocation.cut_after: expected at least revocation.max_staleness')
  }
  if (config.limits.header_bytes < 1024) value('limits.header_bytes: expected at least 1KiB')
  checkFolder(policy.bundles, 'policy.bundles', problems)
  try {
    readPeppers(revocation.pepper_file)
  } catch (error) {
    const { code, message, hint } = error as GateError
    problems.push({ code, text: `${message}: ${hint}` })
  }
}

function checkListen(
  listen: GateConfig['listen'][number],
  at: string,
  value: (text: string) => void,
): void {
  const { tls, trusted_proxies: trusted, proxy_protocol: proxied } = listen
  if (trusted !== undefined) checkNetworks(trusted, `${at}.trusted_proxies`, value)
  if (proxied === 'required' && trusted === undefined) {
    value(`${at}.trusted_proxies: missing; proxy_protocol takes its word from somebody`)
  }
  if (tls !== undefined) {
    const { cert, key, client_ca: ca } = tls
    checkKeyPair(ca === undefined ? { cert, key } : { cert, key, ca }, `${at}.tls`, value)
  }
}

function checkRoute(route: RouteConfig, at: string, value: (text: string) => void): void {
  const { cors, tls } = route
  if (cors?.credentials && cors.origins.includes('*')) {
    value(`${at}.cors.credentials: true, but origins has *; name the origins`)
  }
  if (tls === undefined) return
  if (!route.upstream.startsWith('https:')) value(`${at}.tls: the upstream is not an https origin`)
  if ((tls.cert === undefined) !== (tls.key === undefined)) {
    value(`${at}.tls: expected both cert and key, or neither`)
  } else checkKeyPair(tls, `${at}.tls`, value)
}

function checkNetworks(
  networks: readonly string[],
  at: string,
  value: (text: string) => void,
): void {
  try {
    new NetworkSet(networks)
  } catch (error) {
    value(`${at}: ${(error as Error).message}; expected networks such as 10.1.0.0/16`)
  }
}

/** Certificate and key must be usable and belong together. */
function checkKeyPair(
  pair: { readonly ca?: string; readonly cert?: string; readonly key?: string },
  at: string,
  value: (text: string) => void,
): void {
  const { ca, cert, key } = pair
  try {
    createSecureContext({ ca, cert, key })
  } catch (error) {
    value(`${at}: ${(error as Error).message}`)
  }
}

function checkIssuer(issuer: IssuerConfig, at: string, problems: Problem[]): void {
  const { jwks_file: file, jwks_uri: uri } = issuer
  if (file !== undefined && uri !== undefined) {
    problems.push({
      code: 'ERR_CONFIG_VALUE',
      text: `${at}: expected one of jwks_uri and jwks_file`,
    })
  }
  const source = uri ?? issuer.issuer
  if (file === undefined && !isTrusted(source)) {
    problems.push({
      code: 'ERR_CONFIG_VALUE',
      text: `${at}.${uri === undefined ? 'issuer' : 'jwks_uri'}: expected an https URL, or http on loopback`,
    })
  }
  if (file === undefined) return
  try {
    accessSync(file, constants.R_OK)
  } catch {
    problems.push({ code: 'ERR_CONFIG_FILE', text: `${at}.jwks_file: ${file} cannot be read` })
  }
}

function checkFolder(folder: string, at: string, problems: Problem[]): void {
  try {
    if (statSync(folder).isDirectory()) return
  } catch {
    // Said below.
  }
  problems.push({ code: 'ERR_CONFIG_FILE', text: `${at}: the folder ${folder} does not exist` })
}

function isOrigin(text: string): boolean {
  try {
    const { origin, username, password } = new URL(text)
    return origin === text.toLowerCase() && username === '' && password === ''
  } catch {
    return false
  }
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    for (const child of Object.values(value)) deepFreeze(child)
    Object.freeze(value)
  }
  return value
}
