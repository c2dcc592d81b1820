/** The policy corpus, thousands of requests for each policy: the same answers from `opa eval` and from the gate's engine. */
import { sweep } from '../harness/compared.ts'
import { compareCorpus, corpus } from '../harness/policy-corpus.ts'

await sweep(Object.keys(corpus), compareCorpus, 5_000)
