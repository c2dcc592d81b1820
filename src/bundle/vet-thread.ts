/**
 * The vetting thread: tries a bundle out where a runaway rule can be stopped. It runs once and answers once;
 * bundle/vet.ts ends it at the deadline.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { asGateError, GateError } from '../errors.ts'
import type { VetReport, VetRequest } from '../messages.ts'
import { parseAnswer } from '../policy/answer.ts'
import { type MemoryImage, PolicyInstance } from '../policy/host.ts'
import { buildInput, type InputParts, InputPlan } from '../policy/input.ts'
import type { BundleCost, TrialCost } from './cost.ts'

/** Rounds over the trial inputs, and how long they may take in all. */
const rounds = 100
const measureMs = 50

if (parentPort !== null) {
  // The deadline is the policy's: it begins when what tries it out has been loaded.
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
  const { usage, decisions, ...options } = request
  const beganMs = performance.now()
  const instance = new PolicyInstance({ ...options, keepHeap: usage.patterns })
  const load_ms = Math.round((performance.now() - beganMs) * 10) / 10
  const data = typeof options.data === 'string' ? instance.image() : options.data
  const missing = instance.missingBuiltins
  if (missing.length > 0) {
    throw new GateError(
      'ERR_BUNDLE_POLICY',
      `the bundle needs builtins that are not provided: ${missing.join(', ')}`,
    )
  }
  const inputs = trialInputs(new InputPlan(usage.input))
  const costs: TrialCost[] = []
  for (const decision of new Set(decisions)) {
    const entrypoint = instance.entrypoints.get(decision)
    if (entrypoint === undefined) {
      const known = [...instance.entrypoints.keys()].join(', ')
      throw new GateError(
        'ERR_BUNDLE_POLICY',
        `the bundle has no entrypoint ${decision}; it has ${known}`,
        {
          hint: `\`dropgate build\` builds it with every decision that the configuration names; else \`opa build -t wasm -e ${decision}\``,
        },
      )
    }
    // A caller who says nothing at all must not be let in, whatever the route.
    if (tryOut(instance, entrypoint, decision, '{}')) {
      throw new GateError('ERR_BUNDLE_TRIAL', `${decision} allows an empty input`, {
        hint: 'begin from a denial: `default decision := false`',
      })
    }
    for (const input of inputs) tryOut(instance, entrypoint, decision, input)
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

/** @returns whether it allowed. @throws GateError ERR_BUNDLE_TRIAL when it gives no usable answer. */
function tryOut(
  instance: PolicyInstance,
  entrypoint: number,
  decision: string,
  input: string,
): boolean {
  let detail: string | undefined
  try {
    const answer = parseAnswer(instance.evaluate(entrypoint, input))
    if (answer.failure === undefined) return answer.allowed
    detail = answer.detail
  } catch (error) {
    detail = asGateError(error).message
  }
  throw new GateError('ERR_BUNDLE_TRIAL', `${decision} fails on a trial input: ${detail}`)
}

/** Requests as they come: with and without a caller, with a query, with a body, with a long header. */
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
  const known: InputParts = { ...anonymous, principal: { json: JSON.stringify(caller) } }
  return [
    anonymous,
    known,
    { ...known, method: 'POST', path: '/a/b?q=1', parsedPath: ['a', 'b'], query: 'q=1', size: 10 },
    { ...known, method: 'PUT', size: 9 },
    { ...known, headers: ['host', 'trial.invalid', 'x-long', 'a'.repeat(4000)] },
  ].map((parts) => {
    const body = parts.size === 9 ? { quoted: '"{\\"a\\": 1}"', parsed: '{"a":1}' } : undefined
    const state = { timeRfc3339: '2026-01-01T00:00:00.000Z', body, feedStale: false, feedAgeMs: 0 }
    return buildInput(parts, state, plan).text
  })
}
