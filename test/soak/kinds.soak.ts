/** Ten kinds of policies, 100,000 requests: the same answers from `opa eval` and from the gate's engine. */
import { sweep } from '../harness/compared.ts'
import { compareKind, kinds } from '../harness/kinds.ts'

await sweep(Object.keys(kinds), compareKind, 10_000)
