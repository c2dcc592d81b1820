/**
 * A file and the environment -> the frozen configuration. Everything that is wrong is said at once, each with the
 * key's path, what was expected and, for an unknown key, the nearest known one.
 */
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, resolve } from 'node:path'
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
import { GateError } from '../errors.ts'
import { check, type Problem } from './check.ts'
import { type GateConfig, type RouteConfig, schema, type Unit } from './options.ts'
import { withPreset } from './presets.ts'

export interface Loaded {
  readonly config: GateConfig
  /** The file it came from, absolute. */
  readonly file: string
  /** Every file that was read for it, absolute. */
  readonly files: readonly string[]
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

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    for (const child of Object.values(value)) deepFreeze(child)
    Object.freeze(value)
  }
  return value
}
