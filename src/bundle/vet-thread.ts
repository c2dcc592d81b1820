/**
 * The vetting thread: compiles a new bundle's module, finds out what it reads, and runs it on trial inputs. All this is
 * in a thread of its own so that whatever a bundle makes slow can be stopped. It sends one report; vet.ts, which starts
 * it, ends it at the deadline.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { asGateError, GateError } from '../errors.ts'
import type { VetReport, VetRequest, VetStep, VettedModule } from '../messages.ts'
import { parseAnswer } from '../policy/answer.ts'
import { bodyUsesOf } from '../policy/body-use.ts'
import { compileModule } from '../policy/compile.ts'
import { isImage } from '../policy/data-image.ts'
import { PolicyInstance } from '../policy/host.ts'
import { buildInput, type InputParts, InputPlan } from '../policy/input.ts'
import { findPolicyUsage, readsEverything } from '../policy/input-usage.ts'
import { prepareModule } from '../policy/module.ts'
import { adviseAnswer, shortened } from './answer-advice.ts'
import type { TrialCost } from './cost.ts'

type VetSuccess = Extract<VetReport, { ok: true }>

/** Most rounds over the trial inputs, and most milliseconds for all rounds together. */
const rounds = 100
const measureMs = 50

if (parentPort !== null) {
  parentPort.postMessage(await report(workerData as VetRequest))
}

function begin(step: VetStep): void {
  parentPort?.postMessage(step)
}

async function report(request: VetRequest): Promise<VetReport> {
  try {
    const policy =
      request.policy instanceof Uint8Array ? await vetModule(request.policy) : request.policy
    // The deadlines are meant for data and rules, so the first starts only now, when this thread has loaded its own code and
    // the module.
    begin('data')
    return { ok: true, policy, ...vet(policy, request) }
  } catch (error) {
    return { ok: false, error: asGateError(error, 'ERR_BUNDLE_TRIAL').data }
  }
}

/** @throws GateError ERR_BUNDLE_POLICY */
async function vetModule(wasm: Uint8Array): Promise<VettedModule> {
  const { bytes, initialPages } = prepareModule(wasm)
  const module = await compileModule(bytes)
  return { module, initialPages, usage: findPolicyUsage(wasm) }
}

/** @throws GateError ERR_BUNDLE_POLICY, ERR_BUNDLE_TRIAL */
function vet(
  { usage, ...module }: VettedModule,
  { decisions, evaluationMs, ...options }: VetRequest,
): Pick<VetSuccess, 'cost' | 'bodies' | 'data'> {
  const beganMs = performance.now()
  const instance = new PolicyInstance({ ...module, ...options, keepHeap: usage.patterns })
  const load_ms = Math.round((performance.now() - beganMs) * 10) / 10
  const data = isImage(options.data) ? options.data : instance.image()
  begin('trial')
  const missing = instance.missingBuiltins
  if (missing.length > 0) {
    throw new GateError(
      'ERR_BUNDLE_POLICY',
      `the bundle uses builtins that dropgate does not provide: ${missing.join(', ')}`,
      {
        hint: 'decide without them: what a rule needs is in the input and in the data of the bundle; docs/builtins.md lists what there is',
        problems: missing.map((explained) => ({
          code: 'ERR_BUNDLE_POLICY',
          path: explained.split(' ', 1)[0]!,
          message: `dropgate does not provide ${explained}`,
        })),
      },
    )
  }
  const costs: TrialCost[] = []
  for (const decision of new Set(decisions)) {
    const entrypoint = instance.entrypoints.get(decision)
    if (entrypoint === undefined) {
      const entrypoints = [...instance.entrypoints.keys()].join(', ')
      throw new GateError(
        'ERR_BUNDLE_POLICY',
        `the bundle has no entrypoint ${decision}; its entrypoints are ${entrypoints}`,
        {
          hint: `\`dropgate build\` adds every entrypoint that the configuration names; with opa itself, run \`opa build -t wasm -e ${decision}\``,
        },
      )
    }
    // A request about which nothing is known must be denied on every route.
    const trial = { instance, entrypoint, decision, evaluationMs }
    if (tryOut(trial, '{}')) {
      throw new GateError('ERR_BUNDLE_TRIAL', `${decision} allows a request with an empty input`, {
        hint: 'an answer that follows from what is missing (`not denied`, `count(deny) == 0`, `every`) is true when nothing is known: let the rule also ask for a fact, for example `input.attributes.request.http.method`, and deny by default: `default decision := false`',
      })
    }
    const { input: read } = usage.entrypoints.get(entrypoint) ?? readsEverything
    const inputs = trialInputs(new InputPlan(read))
    for (const input of inputs) tryOut(trial, input)
    costs.push({ decision, ...measure(instance, entrypoint, inputs) })
  }
  return {
    cost: { load_ms, memory_bytes: instance.memoryBytes, decisions: costs },
    bodies: bodyUsesOf(usage, instance.entrypoints, decisions),
    data,
  }
}

function measure(
  instance: PolicyInstance,
  entrypoint: number,
  inputs: readonly string[],
): Omit<TrialCost, 'decision'> {
  const times: number[] = []
  const endMs = performance.now() + measureMs
  for (let round = 0; round < rounds && performance.now() < endMs; round++) {
    for (const input of inputs) {
      const beganMs = performance.now()
      instance.evaluate(entrypoint, input)
      times.push((performance.now() - beganMs) * 1000)
    }
  }
  times.sort((a, b) => a - b)
  const [middle = 0, last = 0] = [times[times.length >> 1], times.at(-1)]
  return { evaluation_us: Math.round(middle * 10) / 10, longest_us: Math.round(last * 10) / 10 }
}

interface Trial {
  readonly instance: PolicyInstance
  readonly entrypoint: number
  readonly decision: string
  readonly evaluationMs: number
}

/** @returns True if the policy allowed the input. @throws GateError ERR_BUNDLE_TRIAL when it gives no usable answer. */
function tryOut(trial: Trial, input: string): boolean {
  const { decision } = trial
  let [detail, resultJson]: (string | undefined)[] = []
  try {
    const answer = parseAnswer(evaluateInTime(trial, input))
    if (answer.failure === undefined) return answer.allowed
    ;({ detail, resultJson } = answer)
  } catch (error) {
    const { code, message } = asGateError(error)
    if (code === 'ERR_POLICY_TIMEOUT') {
      throw new GateError('ERR_BUNDLE_TRIAL', `${decision}: ${message} on a trial input`, {
        hint: 'look for a rule that loops over too much data; policy.evaluation_timeout sets the limit',
      })
    }
    detail = message
  }
  const came = resultJson === undefined ? '' : `; it answered ${shortened(resultJson)}`
  throw new GateError('ERR_BUNDLE_TRIAL', `${decision} fails on a trial input: ${detail}${came}`, {
    ...(resultJson === undefined ? {} : { hint: adviseAnswer(decision, resultJson) }),
  })
}

/** The first evaluations are the slowest, since their code is being compiled: so there are three tries. */
function evaluateInTime(trial: Trial, input: string): string {
  const { instance, entrypoint, evaluationMs } = trial
  for (let left = 2; ; left--) {
    try {
      return instance.evaluate(entrypoint, input, 'json', { limitMs: evaluationMs })
    } catch (error) {
      if (left === 0 || asGateError(error).code !== 'ERR_POLICY_TIMEOUT') throw error
    }
  }
}

/** Returns typical inputs: with and without a caller, with a query, with a body, with a long header. */
function trialInputs(plan: InputPlan): string[] {
  const anonymous: InputParts = {
    requestId: '00000000-0000-4000-8000-000000000000',
    method: 'GET',
    path: '/',
    host: 'trial.invalid',
    scheme: 'http',
    protocol: 'HTTP/1.1',
    headers: ['host', 'trial.invalid'],
    size: -1,
    bodyWithheld: false,
    sourceAddress: '192.0.2.1',
    sourcePort: 1,
    destinationAddress: '192.0.2.2',
    destinationPort: 80,
    parsedPath: [''],
    query: null,
    routeJson: '{"name":"trial","labels":{}}',
    labelsJson: '{}',
    principal: undefined,
  }
  const caller = {
    issuer: 'https://trial.invalid',
    subject: 'trial',
    scopes: [],
    issued_at: 1767225600,
    expires_at: 1767229200,
    claims: { iss: 'https://trial.invalid', sub: 'trial' },
  }
  const signedIn: InputParts = { ...anonymous, principal: { json: JSON.stringify(caller) } }
  return [
    anonymous,
    signedIn,
    {
      ...signedIn,
      method: 'POST',
      path: '/a/b?q=1',
      parsedPath: ['a', 'b'],
      query: 'q=1',
      size: 10,
    },
    { ...signedIn, method: 'PUT', size: 9 },
    { ...signedIn, headers: ['host', 'trial.invalid', 'x-long', 'a'.repeat(4000)] },
  ].map((parts) => {
    const body = parts.size === 9 ? { quoted: '"{\\"a\\": 1}"', parsed: '{"a":1}' } : undefined
    const state = { timeRfc3339: '2026-01-01T00:00:00.000Z', body, feedStale: false, feedAgeMs: 0 }
    return buildInput(parts, state, plan).text
  })
}
