/** `eval`: decides a request without a gate, by the same engine, and measures how long that takes. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readArchive } from '../bundle/archive.ts'
import { loadConfig } from '../config/load.ts'
import type { GateConfig, RouteConfig } from '../config/options.ts'
import { GateError } from '../errors.ts'
import { checkMethod, parseMethod } from '../listener/headers.ts'
import { parseBody } from '../policy/body.ts'
import { compileModule } from '../policy/compile.ts'
import { ActivePolicy } from '../policy/engine.ts'
import { buildInput, type InputParts, type InputState } from '../policy/input.ts'
import { findPolicyUsage } from '../policy/input-usage.ts'
import { prepareModule } from '../policy/module.ts'
import { rewrittenTarget } from '../route/rewrite.ts'
import { RouteTable } from '../route/table.ts'
import { checkTarget, parseRequestTarget } from '../route/target.ts'
import { print } from './output.ts'

/** A request as options of the command; `input` gives a whole input instead. */
export interface EvalRequest {
  readonly bundle: string | undefined
  readonly decision: string | undefined
  readonly input: string | undefined
  readonly method: string
  readonly path: string
  readonly host: string
  /** Each as `name: value`. */
  readonly headers: readonly string[]
  readonly body: string | undefined
  readonly subject: string | undefined
  /** JSON object. */
  readonly claims: string | undefined
}

export interface Evaluation {
  readonly allowed: boolean
  /** The status of the answer to the client: 200, or that of the denial. */
  readonly status: number
  readonly code: string | undefined
  readonly reason: string | undefined
  readonly result: unknown
  readonly evaluation_us: number
  readonly revision: string
  /** The input that the policy got. */
  readonly input: unknown
  /** Why the evaluation failed; undefined when it did not. */
  readonly detail: string | undefined
}

type EvalConfig = Pick<GateConfig, 'policy' | 'routes' | 'listen'>
type OptionPath = `${keyof EvalConfig}.${string}`

const rounds = 200

export function printEvaluation(found: Evaluation): void {
  const { allowed, status, code, reason, detail, result } = found
  print(`${allowed ? 'allow' : 'deny'}  ${status}${code === undefined ? '' : ` ${code}`}`)
  if (reason !== undefined) print(`reason    ${reason}`)
  if (detail !== undefined) print(`failure   ${detail}`)
  print(`result    ${result === undefined ? 'undefined' : JSON.stringify(result)}`)
  print(`took      ${found.evaluation_us} µs (median of ${rounds}), revision ${found.revision}`)
  print(`input     ${JSON.stringify(found.input)}`)
}

/** @throws GateError */
export async function evaluate(file: string, request: EvalRequest): Promise<Evaluation> {
  const { config } = loadConfig(file, process.env, usesOf(request))
  const policy = await load(request.bundle ?? onlyBundle(config.policy.bundles), config)
  const { text, decision } =
    request.input === undefined ? fromFlags(config, request, policy) : fromJson(config, request)
  if (!policy.entrypoints.includes(decision)) {
    throw new GateError('ERR_USAGE', `the bundle has no entrypoint ${decision}`, {
      hint: `its entrypoints are ${policy.entrypoints.join(', ')}; \`dropgate build\` builds every one that the configuration names`,
    })
  }
  const answer = policy.decide(decision, text)
  const times: number[] = []
  for (let i = 0; i < rounds; i++) {
    const beganMs = performance.now()
    policy.decide(decision, text)
    times.push((performance.now() - beganMs) * 1000)
  }
  times.sort((a, b) => a - b)
  return {
    allowed: answer.allowed,
    status: answer.allowed ? 200 : answer.status,
    code: answer.failure ?? (answer.allowed ? undefined : 'ERR_POLICY_DENIED'),
    reason: answer.reason,
    result: answer.resultJson === undefined ? undefined : JSON.parse(answer.resultJson),
    evaluation_us: Math.round(times[rounds >> 1]! * 10) / 10,
    revision: policy.stamp.revision,
    input: JSON.parse(text),
    detail: answer.detail,
  }
}

/**
 * The configuration options that this request needs: `--bundle` replaces policy.bundles, and a whole input needs no
 * route.
 */
function usesOf({ bundle, input }: EvalRequest): readonly OptionPath[] {
  return [
    'policy.decision',
    'policy.max_bundle',
    'policy.max_unpacked',
    'policy.max_memory',
    'policy.evaluation_timeout',
    ...(bundle === undefined ? (['policy.bundles'] as const) : []),
    ...(input === undefined
      ? ([
          'listen.port',
          'routes.name',
          'routes.host',
          'routes.path',
          'routes.methods',
          'routes.labels',
          'routes.decision',
        ] as const)
      : []),
  ]
}

async function load(path: string, config: EvalConfig): Promise<ActivePolicy> {
  const { max_memory, evaluation_timeout } = config.policy
  const { max_bundle: maxBundleBytes, max_unpacked: maxUnpackedBytes } = config.policy
  let bytes: Buffer
  try {
    bytes = readFileSync(path)
  } catch (error) {
    throw new GateError('ERR_BUNDLE_READ', `${path} cannot be read`, { cause: error })
  }
  const content = await readArchive(bytes, { maxBundleBytes, maxUnpackedBytes })
  const { bytes: wasm, initialPages } = prepareModule(content.wasm)
  const module = await compileModule(wasm)
  const usage = findPolicyUsage(content.wasm)
  return new ActivePolicy(
    { ...content, generation: 1, bundle: path, module, initialPages, usage },
    max_memory,
    evaluation_timeout,
  )
}

function onlyBundle(directory: string): string {
  const files = readdirSync(directory).filter((name) => name.endsWith('.tar.gz'))
  if (files.length === 1) return join(directory, files[0]!)
  throw new GateError('ERR_BUNDLE_READ', `${directory} holds ${files.length} bundles`, {
    hint: 'choose one bundle with --bundle FILE',
  })
}

interface Case {
  readonly text: string
  readonly decision: string
}

function fromJson(config: EvalConfig, { input, decision }: EvalRequest): Case {
  let text: string
  try {
    text = readFileSync(input === '-' ? 0 : input!, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new GateError('ERR_USAGE', `cannot read ${input}: ${code}`, { cause: error })
  }
  try {
    JSON.parse(text)
  } catch (error) {
    throw new GateError('ERR_USAGE', `${input} is not JSON: ${(error as Error).message}`, {
      cause: error,
    })
  }
  return { text, decision: decision ?? config.policy.decision }
}

function fromFlags(config: EvalConfig, request: EvalRequest, policy: ActivePolicy): Case {
  const { host, subject } = request
  const method = parseMethod(request.method)
  if (!/^[/*]|:\/\//.test(request.path)) {
    throw new GateError('ERR_USAGE', `--path ${request.path} does not begin with /`, {
      hint: 'write for example --path /orders',
    })
  }
  const rules = { scheme: 'http', maxBytes: 1 << 16 } as const
  const asked = parseRequestTarget(method, request.path, host, rules)
  const route = new RouteTable(config.routes).find(asked)
  if (route === 'host-unknown') throw new GateError('ERR_HOST_UNKNOWN')
  if (route === 'no-route') throw new GateError('ERR_ROUTE_NOT_FOUND')
  checkMethodOf(route.config, method)
  const target = checkTarget(asked, route.config)
  const headers = request.headers.flatMap(headerOfLine)
  const headerOf = (wanted: string): string | undefined => {
    const at = headers.findIndex((name, i) => i % 2 === 0 && name === wanted)
    return at === -1 ? undefined : headers[at + 1]
  }
  const body = request.body === undefined ? undefined : Buffer.from(request.body)
  const decision = request.decision ?? route.config.decision
  const plan = policy.planOf(decision)
  const parts: InputParts = {
    requestId: '00000000-0000-4000-8000-000000000000',
    method,
    path: target.wire,
    host: target.authority,
    scheme: 'http',
    protocol: 'HTTP/1.1',
    headers: ['host', target.authority, ...headers],
    size: body?.length ?? -1,
    bodyWithheld: body !== undefined && !plan.readsBody,
    sourceAddress: '127.0.0.1',
    sourcePort: 1,
    destinationAddress: '127.0.0.1',
    destinationPort: config.listen[0]!.port,
    parsedPath: target.segments,
    query: target.query,
    sentTarget:
      route.rewrite && rewrittenTarget(method, target, route.rewrite, route.config, rules).wire,
    routeJson: route.routeJson,
    labelsJson: route.labelsJson,
    principal: principalOf(subject, request.claims),
  }
  const state: InputState = {
    timeRfc3339: new Date().toISOString(),
    body:
      body === undefined || !plan.readsBody
        ? undefined
        : parseBody(
            body,
            {
              contentType: headerOf('content-type') ?? 'application/json',
              contentEncoding: headerOf('content-encoding'),
            },
            plan.top.has('parsed_body'),
          ),
    feedStale: false,
    feedAgeMs: 0,
  }
  const { text } = buildInput(parts, state, plan)
  return { text, decision }
}

/** @throws GateError ERR_METHOD_NOT_ALLOWED, ERR_METHOD_UNKNOWN */
function checkMethodOf({ name, methods }: RouteConfig, method: string): void {
  if (methods === undefined) checkMethod(method, methods)
  else if (!methods.includes(method))
    throw new GateError('ERR_METHOD_NOT_ALLOWED', `route ${name} allows only ${methods.join(', ')}`)
}

/** @returns name in lower case, value. @throws GateError ERR_USAGE */
function headerOfLine(line: string): [name: string, value: string] {
  const split = line.indexOf(':')
  if (split < 1)
    throw new GateError('ERR_USAGE', `${JSON.stringify(line)} is not of the form name: value`)
  return [line.slice(0, split).toLowerCase(), line.slice(split + 1).trim()]
}

/** The principal that a verified token would give; claims that were not given have defaults. */
function principalOf(
  subject: string | undefined,
  claimsText: string | undefined,
): { readonly json: string } | undefined {
  if (subject === undefined && claimsText === undefined) return undefined
  let given: unknown
  try {
    given = JSON.parse(claimsText ?? '{}')
  } catch {
    given = undefined
  }
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw new GateError('ERR_USAGE', '--claims is not a JSON object')
  const nowS = Math.floor(Date.now() / 1000)
  const claims: Record<string, unknown> = {
    iss: 'https://issuer.invalid', sub: subject ?? 'someone', iat: nowS, exp: nowS + 3600, ...given,
  } // biome-ignore format: one claim after another
  const { iss, sub, sid, jti, client_id, scope, iat, exp } = claims
  const scopes = typeof scope === 'string' ? scope.split(' ').filter((one) => one !== '') : []
  return {
    json: JSON.stringify({
      issuer: iss,
      subject: sub,
      session_id: sid,
      token_id: jti,
      client_id,
      scopes,
      issued_at: iat,
      expires_at: exp,
      claims,
    }),
  }
}
