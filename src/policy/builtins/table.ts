/**
 * The builtins that the host provides, by name, and those it refuses, each with what to use instead. All others of
 * OPA are compiled into the module. A bundle that needs one that is not provided is refused when it is vetted.
 */
import type { Evaluation } from './evaluation.ts'
import { RegoNumber, type Value } from './value.ts'

export interface Builtin {
  /** @returns undefined for Rego's undefined. @throws BuiltinError for the same, with a reason. */
  readonly call: (args: readonly Value[], evaluation: Evaluation) => Value | undefined
  /** True where the answer is the world's: the first one of an evaluation stands, and is recorded. */
  readonly pinned?: boolean
}

export const builtins: ReadonlyMap<string, Builtin> = new Map<string, Builtin>(
  Object.entries({
    'time.now_ns': { call: (_args, { nowNs }) => new RegoNumber(nowNs), pinned: true },
  } satisfies Record<string, Builtin>),
)

const refused: Readonly<Record<string, string>> = {
  'http.send':
    'a decision never waits for the network: put what it would fetch into the bundle or into grants',
  'net.lookup_ip_addr':
    'a decision never waits for the network: compare addresses with net.cidr_contains',
  'opa.runtime': 'the environment of the gate is not a policy’s to read: use labels of the route',
  'rego.parse_module': 'policies are compiled before they are loaded',
}

/** @returns the name, and for a refused builtin what to use instead. */
export function explainMissing(name: string): string {
  const why = refused[name]
  return why === undefined ? name : `${name} (${why})`
}
