/**
 * Turns a file and the environment into the frozen configuration. All problems are reported together, each with the
 * path of the key, the expected value and, for an unknown key, the nearest known key. A command that uses a part of
 * the configuration loads only that part: problems in the other parts do not stop it.
 */
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js'
import {
  type Document,
  isMap,
  isScalar,
  isSeq,
  parse,
  parseDocument,
  type Scalar,
  visit,
  type Node as YamlNode,
} from 'yaml'
import { nearest } from '../domain/nearest.ts'
import { asGateError, GateError, type Problem } from '../errors.ts'
import { adviceFor, describeValue, type SchemaNode } from './advice.ts'
import { check } from './check.ts'
import {
  type GateConfig,
  type IssuerConfig,
  type RouteConfig,
  schema,
  stateDir,
} from './options.ts'
import { withPreset } from './presets.ts'
import { Problems } from './problems.ts'

type Section = keyof GateConfig & string
/** Path of a part of the configuration, without list indices: `admin`, `routes.decision`. */
export type Use = Section | `${Section}.${string}`
type SectionOf<U> = U extends `${infer S}.${string}` ? S : U

export interface LoadedConfig<U extends Use = Section> {
  /**
   * The sections that the caller asked for. Options in them that the caller did not ask for have their defaults or
   * are missing.
   */
  readonly config: Pick<GateConfig, SectionOf<U> & Section>
  /** Absolute path of the configuration file. */
  readonly file: string
  /** Absolute path of each file that was read for the configuration. */
  readonly files: readonly string[]
}

/**
 * @param uses Parts of the configuration that the caller uses; all parts when absent.
 * @param without Options that the caller does not use although `uses` contains them.
 * @throws GateError ERR_CONFIG_*: the code of the first problem; the message has one line for each problem.
 */
export function loadConfig<U extends Use = Section>(
  file: string,
  env: NodeJS.ProcessEnv,
  uses?: readonly U[],
  without: readonly Use[] = [],
): LoadedConfig<U> {
  const absolute = resolve(file)
  let text: string
  try {
    text = readFileSync(absolute, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new GateError(
      'ERR_CONFIG_READ',
      code === 'ENOENT'
        ? `there is no configuration file ${absolute}`
        : `cannot read ${absolute} (${code})`,
      {
        cause: error,
        hint: 'name the file with --config, or run the command in the folder of dropgate.yaml',
      },
    )
  }
  const read: string[] = []
  try {
    const config = readConfig(text, dirname(absolute), env, {
      onRead: (pem) => read.push(pem),
      uses,
      without,
    })
    return { config, file: absolute, files: [absolute, ...read] }
  } catch (error) {
    const { code, message, hint, problems } = asGateError(error)
    if (code === 'ERR_INTERNAL') throw error
    const where = `the configuration file is ${absolute}`
    throw new GateError(code, message, {
      cause: error,
      hint: hint === undefined ? where : `${where}; ${hint}`,
      problems,
    })
  }
}

const loginsOfCommands = [
  'database.cli_url',
  'database.migrate_url',
  'database.breakglass_url',
] as const

/** Loads what a gate uses: all but the logins of commands, so that a gate runs without their passwords. */
export function loadGateConfig(file: string, env: NodeJS.ProcessEnv): LoadedConfig {
  return loadConfig(file, env, undefined, loginsOfCommands)
}

interface ReadOptions {
  /** Called with the path of each PEM file whose content goes into the configuration. */
  readonly onRead?: (file: string) => void
  readonly uses?: readonly Use[] | undefined
  readonly without?: readonly Use[]
}

/** @param folder Relative paths in the configuration start from this folder. */
export function readConfig(
  text: string,
  folder: string,
  env: NodeJS.ProcessEnv,
  { onRead = () => {}, uses, without = [] }: ReadOptions = {},
): GateConfig {
  const root = schema as unknown as SchemaNode
  const document = parseYaml(text)
  const problems = new Problems(uses === undefined ? [''] : withNeeded(uses, document), without)
  prune(document.contents, root, '', problems)
  const written = longForms(interpolate(document, env, problems))
  const complete = withDefaults(root, written)
  validate(root, complete, problems)
  const resolved = resolveUnits(root, complete, { folder, onRead, problems }, '')
  const config = finish(resolved as GateConfig, problems)
  check(config, problems)
  problems.raise()
  return deepFreeze(config)
}

/**
 * Adds the options that stand in for absent ones: `database.url` for a login of a command, `state_dir` for a path that
 * lies in it. A problem of `state_dir` must not stop a command that needs nothing there.
 */
function withNeeded(uses: readonly Use[], document: Document): readonly Use[] {
  const standsIn = (use: Use): readonly Use[] => {
    if (/^database\.(?:cli|migrate)_url$/.test(use))
      return document.hasIn(use.split('.')) ? [] : ['database.url']
    const isInState =
      (use === 'admin' && !document.hasIn(['admin', 'token_file'])) ||
      (use === 'database.embedded' && isScalar(document.get('database', true)))
    return isInState ? ['state_dir'] : []
  }
  return uses.flatMap((use) => [use, ...standsIn(use)])
}

/** Removes the parts of the file that the caller does not use. A misspelt key counts as the known key nearest to it. */
function prune(value: unknown, node: SchemaNode, at: string, problems: Problems): void {
  if (isSeq(value)) {
    for (const item of value.items) prune(item, node.items ?? {}, at, problems)
  } else if (isMap(value)) {
    const { properties = {} } = node.items ?? node
    value.items = value.items.filter(({ key, value: child }) => {
      const name = String(isScalar(key) ? key.value : key)
      const meant = nearest(name, Object.keys(properties)) ?? name
      const path = at === '' ? meant : `${at}.${meant}`
      if (!problems.concerns(path)) return false
      prune(child, properties[meant] ?? {}, path, problems)
      return true
    })
  }
}

function parseYaml(text: string): Document {
  const document = parseDocument(text, { uniqueKeys: true, prettyErrors: true })
  const [error] = document.errors
  if (error === undefined) return document
  const line = text.split('\n')[(error.linePos?.[0].line ?? 1) - 1] ?? ''
  throw new GateError('ERR_CONFIG_READ', `not valid YAML: ${error.message}`, {
    cause: error,
    hint: /[{[].*(?<!")\$\{/.test(line)
      ? 'between braces or brackets a variable needs quotes: {port: "${PORT}"}'
      : 'a key is followed by a colon and a space, as in  listen: {port: 8080}  and what belongs to it is indented by spaces',
  })
}

function interpolate(document: Document, env: NodeJS.ProcessEnv, problems: Problems): unknown {
  visit(document, {
    Alias(_key, _node, path) {
      problems.add(
        'ERR_CONFIG_READ',
        pathOf(path),
        'aliases (*name) are not supported: write the value out',
      )
      return visit.REMOVE
    },
    Scalar(key, node, path) {
      if (key !== 'key' && typeof node.value === 'string')
        substitute(node, env, pathOf(path), problems)
    },
  })
  return document.toJS()
}

const variable = /\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}/g

/**
 * Replaces `${NAME}` and `${NAME:-default}`. A value that consists of one variable alone may become a number or a
 * boolean.
 */
function substitute(node: Scalar, env: NodeJS.ProcessEnv, at: string, problems: Problems): void {
  const before = node.value as string
  if (!before.includes('${')) return
  let complete = true
  const after = before.replace(variable, (_, name: string, standard: string | undefined) => {
    try {
      const { value, isFromFile } = variableOf(name, env)
      if (isFromFile) problems.hide(at, value)
      if (value !== '') return value
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      complete = false
      problems.add(
        'ERR_CONFIG_VARIABLE',
        at,
        `the file ${env[`${name}_FILE`]}, named by ${name}_FILE, cannot be read (${code})`,
      )
      return ''
    }
    if (standard !== undefined) return standard
    complete = false
    problems.add(
      'ERR_CONFIG_VARIABLE',
      at,
      `the variable ${name} is not set and has no default; set it, name a file that holds it in ${name}_FILE, or write \${${name}:-DEFAULT}`,
    )
    return ''
  })
  const alone = before.replace(variable, '') === ''
  const plain = alone && /^(?:\d{1,9}|true|false)$/.test(after) ? parse(after) : after
  // An unset variable was already reported; treat the whole value as missing.
  node.value = complete ? plain : null
}

/** Service managers and container platforms hand secrets over as files: `NAME_FILE` names the file with the value. */
function variableOf(
  name: string,
  env: NodeJS.ProcessEnv,
): { readonly value: string; readonly isFromFile: boolean } {
  const { [name]: value = '', [`${name}_FILE`]: file = '' } = env
  if (value !== '' || file === '') return { value, isFromFile: false }
  return { value: readFileSync(file, 'utf8').replace(/\r?\n$/, ''), isFromFile: true }
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
  // `listen` may be written as one mapping instead of a list; its path is then that of the first list item.
  return at.replace(/^listen(?=\.)/, 'listen[0]')
}

/**
 * Expands the short forms: `database: embedded`, a single `listen` mapping, the preset of an issuer, and `audience: none`.
 */
function longForms(file: unknown): unknown {
  const written = file ?? {}
  if (typeof written !== 'object' || Array.isArray(written)) return written
  const { listen, database, issuers, ...rest } = written as Record<string, unknown>
  const embedded = join(typeof rest.state_dir === 'string' ? rest.state_dir : stateDir, 'postgres')
  return {
    ...rest,
    ...(issuers === undefined
      ? {}
      : { issuers: Array.isArray(issuers) ? issuers.map(withPreset) : issuers }),
    listen: Array.isArray(listen) ? listen : [listen ?? {}],
    database: database === 'embedded' ? { embedded } : database,
  }
}

/** Fills in the defaults, also inside groups that the file does not mention. */
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

/** By the names of the sections that each one checks. */
const validators = new Map<string, ValidateFunction>()

/**
 * Checks the sections that are used, and the names of all. To compile the check of every option takes 0.1 s of CPU,
 * which a command that uses one section need not spend.
 */
function validatorOf(root: SchemaNode, problems: Problems): ValidateFunction {
  const sections = Object.entries(root.properties!)
  const used = sections.map(([name]) => name).filter((name) => problems.concerns(name))
  const known = validators.get(used.join())
  if (known !== undefined) return known
  const properties = Object.fromEntries(
    sections.map(([name, node]) => [name, used.includes(name) ? node : {}]),
  )
  const required = root.required!.filter((name) => used.includes(name))
  // The schema is ours and tested: it is not checked against the schema of schemas, which takes as long again.
  const ajv = new Ajv2020({ allErrors: true, verbose: true, strict: false, validateSchema: false })
  const made = ajv.compile({ ...root, properties, required })
  validators.set(used.join(), made)
  return made
}

function validate(root: SchemaNode, value: unknown, problems: Problems): void {
  const validator = validatorOf(root, problems)
  if (validator(value)) return
  // Errors from inside an `anyOf` describe one branch only; the error of the whole `anyOf` says what was expected.
  const errors = (validator.errors ?? []).filter(
    ({ schemaPath }) => !schemaPath.includes('/anyOf/'),
  )
  for (const error of errors) {
    const { code, path, message } = problemOf(error, problems)
    problems.add(code, path, message)
  }
}

function problemOf(error: ErrorObject, problems: Problems): Problem {
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
    const keys = Object.keys(node.properties ?? {})
    const near = nearest(key, keys)
    const known = near === undefined ? `the keys here are ${keys.join(', ')}` : undefined
    return {
      code: 'ERR_CONFIG_KEY_UNKNOWN',
      path: below(key),
      message: `unknown key; ${known ?? `did you mean ${below(near!)}?`}`,
    }
  }
  if (keyword === 'required') {
    const key = params.missingProperty as string
    return {
      code: 'ERR_CONFIG_VALUE',
      path: below(key),
      message: `missing; expected ${expected(node.properties?.[key])}`,
    }
  }
  const secret =
    problems.hides(at) ||
    /^issuers\[\d+\]\.fetch\.(?:headers|proxy)/.test(at) ||
    (/^database\.\w*url$/.test(at) && !String(data).includes('://'))
  const found = secret
    ? 'another value (not shown, it may hold a password)'
    : `${describeValue(data)}${adviceFor(node, data)}`
  return {
    code: 'ERR_CONFIG_VALUE',
    path: at,
    message: `expected ${expected(node)}, found ${found}`,
  }
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

interface ResolveContext {
  /** Relative paths start from this folder. */
  readonly folder: string
  readonly onRead: (file: string) => void
  readonly problems: Problems
}

/** Turns texts with units into numbers, relative paths into absolute ones, and paths of PEM files into their text. */
function resolveUnits(
  node: SchemaNode,
  value: unknown,
  context: ResolveContext,
  at: string,
): unknown {
  if (value === undefined) return undefined
  if (context.problems.has(at)) return blank(node, context, at)
  switch (node['x-unit']) {
    case 'duration':
      return withUnit(value as string, durationMs)
    case 'size':
      return withUnit(value as string, sizeBytes)
    case 'workers':
      return value === 'auto' ? availableParallelism() : value
    case 'path':
      return resolve(context.folder, value as string)
    case 'pem':
      return readPem(resolve(context.folder, value as string), at, context)
  }
  if (node.properties !== undefined) {
    return Object.fromEntries(
      Object.entries(value as object).map(([key, child]) => [
        key,
        resolveUnits(node.properties![key] ?? {}, child, context, at === '' ? key : `${at}.${key}`),
      ]),
    )
  }
  if (node.items?.properties !== undefined) {
    return (value as unknown[]).map((item, i) =>
      resolveUnits(node.items!, item, context, `${at}[${i}]`),
    )
  }
  return value
}

/** Replaces an unusable value by an empty one, so that the rest of the configuration can still be checked. */
function blank(node: SchemaNode | undefined, context: ResolveContext, at: string): unknown {
  if (node?.type === 'array') return []
  if (node?.properties === undefined) return undefined
  return resolveUnits(node, withDefaults(node, {}), { ...context, problems: new Problems([]) }, at)
}

function readPem(file: string, at: string, { onRead, problems }: ResolveContext): string {
  onRead(file)
  try {
    const text = readFileSync(file, 'utf8')
    if (text.includes('-----BEGIN ')) return text
    problems.add('ERR_CONFIG_FILE', at, `${file} is not a PEM file`)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    problems.add('ERR_CONFIG_FILE', at, `${file} cannot be read (${code})`)
  }
  return ''
}

function withUnit(text: string, units: Readonly<Record<string, number>>): number {
  const digits = /^[\d.]+/.exec(text)![0]
  const amount = Number(digits) * units[text.slice(digits.length)]!
  // 0 means something else than very little.
  return amount > 0 ? Math.max(1, Math.round(amount)) : 0
}

/** Fills in values that come from other options. The input may have problems: a missing option stays missing. */
function finish(config: GateConfig, problems: Problems): GateConfig {
  const { routes = [], listen = [], issuers = [], policy, decision_log, admin } = config
  const { state_dir = '' } = config
  const { file, sink } = decision_log as { file?: string; sink?: string }
  if (file !== undefined && sink !== undefined)
    problems.add('ERR_CONFIG_VALUE', 'decision_log', 'expected either sink or file, not both')
  // A header that a trusted proxy fills in at one port must not come from a client at another.
  const certificates = listen.flatMap(({ client_cert_header: name }) => name?.toLowerCase() ?? [])
  return {
    ...config,
    listen,
    issuers: issuers.map(finishIssuer),
    admin: { ...admin, token_file: admin.token_file ?? join(state_dir, 'admin.token') },
    routes: routes.map((route): RouteConfig => finishRoute(route, policy.decision, certificates)),
    decision_log: file === undefined ? { sink: 'stdout' } : { file },
  }
}

/** Names of headers are compared in lower case; those of cookies are not. An entry that is no text is a problem already. */
function finishIssuer(issuer: IssuerConfig): IssuerConfig {
  const { from = [] } = issuer as Partial<IssuerConfig>
  return {
    ...issuer,
    from: from.map((each) =>
      typeof each === 'string' && each.startsWith('header:') ? each.toLowerCase() : each,
    ),
  }
}

/** @param certificates Headers with client certificates, which no route passes on. */
function finishRoute(
  route: RouteConfig,
  standard: string,
  certificates: readonly string[],
): RouteConfig {
  const { decision = standard, upstream, forward } = route as Partial<RouteConfig>
  const lower = (names: readonly string[] | undefined) => names?.map((name) => name.toLowerCase())
  const [own, pass] = [lower(forward?.remove), lower(forward?.pass)]
  const remove = certificates.length === 0 ? own : [...(own ?? []), ...certificates]
  return {
    ...route,
    decision,
    upstream: upstream?.replace(/^(https?:.*)\/$/, '$1') as string,
    forward: {
      ...forward,
      ...(remove === undefined ? {} : { remove }),
      ...(pass === undefined ? {} : { pass }),
    } as RouteConfig['forward'],
  }
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    for (const child of Object.values(value)) deepFreeze(child)
    Object.freeze(value)
  }
  return value
}
