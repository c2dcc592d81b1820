/**
 * The vetting thread: runs a new bundle on trial inputs, in a thread of its own so that a runaway rule can be
 * stopped. It sends one report; vet.ts, which starts it, ends it at the deadline.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { asGateError, GateError } from '../errors.ts'
import type { VetReport, VetRequest } from '../messages.ts'
import { parseAnswer } from '../policy/answer.ts'
import { type MemoryImage, PolicyInstance } from '../policy/host.ts'
import { buildInput, type InputParts, InputPlan } from '../policy/input.ts'
import type { BundleCost, TrialCost } from './cost.ts'

/** Most rounds over the trial inputs, and most milliseconds for all rounds together. */
const rounds = 100
const measureMs = 50

if (parentPort !== null) {
  // The deadline is meant for the policy, so it starts only now, when this thread has loaded its own code.
  parentPort.postMessage('loaded')
  parentPort.postMessage(report(workerData as VetRequest))
}

function report(request: VetRequest): VetReport {
  try {
    return { ok: true, ...vet(request) }
  } catch (error) {
    return { ok: false, error: asGateError(error, 'ERR_BUNDLE_TRIAL').data }
  }
}

/** @throws GateError ERR_BUNDLE_POLICY, ERR_BUNDLE_TRIAL */
function vet(request: VetRequest): { cost: BundleCost; data: MemoryImage } {
  const { usage, decisions, evaluationMs, ...options } = request
  const beganMs = performance.now()
  const instance = new PolicyInstance({ ...options, keepHeap: usage.patterns })
  const load_ms = Math.round((performance.now() - beganMs) * 10) / 10
  const data = typeof options.data === 'string' ? instance.image() : options.data
  const missing = instance.missingBuiltins
  if (missing.length > 0) {
    throw new GateError(
      'ERR_BUNDLE_POLICY',
      `the bundle uses builtins that dropgate does not provide: ${missing.join(', ')}`,
    )
  }
  const inputs = trialInputs(new InputPlan(usage.input))
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
        hint: 'deny by default in the policy: `default decision := false`',
      })
    }
    for (const input of inputs) tryOut(trial, input)
    costs.push({ decision, ...measure(instance, entrypoint, inputs) })
  }
  return { cost: { load_ms, memory_bytes: instance.memoryBytes, decisions: costs }, data }
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
  let detail: string | undefined
  try {
    const answer = parseAnswer(evaluateInTime(trial, input))
    if (answer.failure === undefined) return answer.allowed
    detail = answer.detail
  } catch (error) {
    const { code, message } = asGateError(error)
    if (code === 'ERR_POLICY_TIMEOUT') {
      throw new GateError('ERR_BUNDLE_TRIAL', `${decision}: ${message} on a trial input`, {
        hint: 'look for a rule that loops over too much data; policy.evaluation_timeout sets the limit',
      })
    }
    detail = message
  }
  throw new GateError('ERR_BUNDLE_TRIAL', `${decision} fails on a trial input: ${detail}`)
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
