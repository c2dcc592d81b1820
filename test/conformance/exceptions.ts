/**
 * Cases by note that no compiled module can pass. Each reason is OPA's own, from the list of exceptions of its
 * WebAssembly run or from what `opa build` says.
 */
const bits = 'WASM cannot represent integers larger than 64 bits (open-policy-agent/opa#3711)'
const noInput =
  'needs an evaluation whose `input` is undefined; a gate never decides without a request, and its host refuses to'

export const exceptions: ReadonlyMap<string, string> = new Map([
  ['data/toplevel integer', bits],
  ['data/nested integer', bits],
  ['strings/format_int: bignum exact (>64-bit integer, all bases + negative)', bits],
  ['every/domain undefined (input)', noInput],
  ['inputvalues/loopback undefined', noInput],
  ['virtualdocs/undefined: in array coprehension body', noInput],
  ['virtualdocs/undefined: in array literal', noInput],
  ['virtualdocs/undefined: in set coprehension body', noInput],
  ['virtualdocs/undefined: in set literal', noInput],
  ['withkeyword/builtin-value: arity-1, input must still be defined', noInput],
  [
    'baseandvirtualdocs/enumerate virtual errors',
    'without strict errors `opa eval` gives the same answer, an object without what is undefined',
  ],
])
