/**
 * Cases by note that dropgate does not pass, each with its reason, beside those that OPA's own WebAssembly run leaves out
 * (`readExceptions` of cases.ts) and those that need a builtin which dropgate refuses.
 */
const noInput =
  'needs an evaluation whose `input` is undefined; a gate never decides without a request, and its host refuses to'

export const ownExceptions: ReadonlyMap<string, string> = new Map([
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
