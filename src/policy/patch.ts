/**
 * Changes of the `data` document as they arrive: a JSON Patch as OPA's data API takes it (add, remove, replace; OPA
 * refuses test, move and copy), or the `patch.json` of an OPA delta bundle (upsert, remove, replace). Both become the
 * same list of operations here. Whether they fit the document is found out by data-change.ts.
 */
import { strictJson } from '../domain/strict-json.ts'
import { GateError } from '../errors.ts'

export interface DataOperation {
  /** `upsert` is `add` that makes the objects which are missing on the way. */
  readonly op: 'add' | 'remove' | 'replace' | 'upsert'
  /** Names and indexes from the root of `data`. */
  readonly path: readonly string[]
  /** JSON text; undefined for `remove`. */
  readonly value: string | undefined
}

/** A change as every worker gets it. */
export interface DataPatch {
  /** Number of the change since the policy became active, from 1. */
  readonly number: number
  readonly operations: readonly DataOperation[]
}

export type PatchFormat = 'json-patch' | 'delta'

/**
 * Limits of one change. All its operations are applied in one turn of a worker's event loop, 1 MiB of them takes about
 * 30 ms; what is larger comes as a bundle.
 */
export const maxPatchBytes = 1 << 20
export const maxPatchOperations = 5000
const maxPathSteps = 100
const maxDepth = 500

const names: Readonly<Record<PatchFormat, readonly string[]>> = {
  'json-patch': ['add', 'remove', 'replace'],
  delta: ['upsert', 'remove', 'replace'],
}

/** @throws GateError ERR_DATA_PATCH, ERR_BUNDLE_LIMITS */
export function parsePatch(text: string, format: PatchFormat): DataOperation[] {
  const bytes = Buffer.byteLength(text)
  if (bytes > maxPatchBytes)
    throw tooLarge(`it has ${bytes} bytes, at most ${maxPatchBytes} are taken`)
  let parsed: unknown
  try {
    parsed = parseKeepingDigits(text)
  } catch (cause) {
    throw malformed('it is not JSON', cause)
  }
  strictJson(text, { maxDepth, maxMembers: 100_000, escapedNames: 'keep', refuse: malformed })
  const list = format === 'delta' ? operationsOf(parsed) : parsed
  if (!Array.isArray(list)) throw malformed('its operations are not a list')
  if (list.length > maxPatchOperations)
    throw tooLarge(`it has ${list.length} operations, at most ${maxPatchOperations} are taken`)
  return list.map((each, i) => operation(each, `operation ${i + 1}`, format))
}

/** A path as a JSON pointer (RFC 6901). */
export function pointerOf(path: readonly string[]): string {
  return path.map((step) => `/${step.replaceAll('~', '~0').replaceAll('/', '~1')}`).join('') || '/'
}

/** `patch.json` is `{"data": [operations]}`. */
function operationsOf(parsed: unknown): unknown {
  const object = objectOf(parsed, 'patch.json', ['data'])
  return object.data ?? []
}

function operation(value: unknown, where: string, format: PatchFormat): DataOperation {
  const object = objectOf(value, where, ['op', 'path', 'value'])
  const { op } = object
  if (typeof op !== 'string' || !names[format].includes(op))
    throw malformed(`${where}: op must be ${names[format].join(', ')}`)
  const path = pathOf(object.path, where)
  const given = Object.hasOwn(object, 'value')
  if (op === 'remove') return { op, path, value: undefined }
  if (!given) throw malformed(`${where}: value is missing`)
  return { op: op as DataOperation['op'], path, value: JSON.stringify(object.value).toWellFormed() }
}

function objectOf(
  value: unknown,
  where: string,
  known: readonly string[],
): Record<string, unknown> {
  if (
    typeof value !== 'object' ||
    value === null ||
    Array.isArray(value) ||
    rawJson.isRawJSON(value)
  )
    throw malformed(`${where} is not an object`)
  const unknown = Object.keys(value).find((name) => !known.includes(name))
  if (unknown !== undefined)
    throw malformed(`${where} has an unknown member ${JSON.stringify(unknown)}`)
  return value as Record<string, unknown>
}

/** OPA decodes percent-encoding in such a path too; a path with a percent sign is refused, so that it has one reading. */
function pathOf(value: unknown, where: string): string[] {
  if (typeof value !== 'string') throw malformed(`${where}: path is not a text`)
  if (value === '' || value === '/') return []
  const trimmed = value.replace(/^\//, '')
  const steps = trimmed.split('/')
  if (steps.includes('') || value.includes('%') || /~(?![01])/.test(value) || !value.isWellFormed())
    throw malformed(
      `${where}: path must be a JSON pointer without an empty step and without a percent sign`,
    )
  if (steps.length > maxPathSteps)
    throw malformed(`${where}: path has more than ${maxPathSteps} steps`)
  return steps.map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'))
}

/** Numbers keep their digits: as numbers of JavaScript, large ones would change. */
function parseKeepingDigits(text: string): unknown {
  const revive = (_name: string, value: unknown, context?: { source?: string }): unknown =>
    typeof value === 'number' ? rawJson.rawJSON(context!.source!) : value
  return JSON.parse(text, revive)
}

/** Of ECMAScript 2026, which the type library does not have yet. */
const rawJson = JSON as typeof JSON & {
  rawJSON: (text: string) => object
  isRawJSON: (value: unknown) => boolean
}

function malformed(why: string, cause?: unknown): GateError {
  return new GateError('ERR_DATA_PATCH', `the change of the data is refused: ${why}`, {
    ...(cause === undefined ? {} : { cause }),
  })
}

function tooLarge(why: string): GateError {
  return new GateError('ERR_BUNDLE_LIMITS', `the change of the data is too large: ${why}`, {
    hint: 'put what changes at once into several changes, or into a bundle',
  })
}
