/** The policy corpus, thousands of requests for each policy: the same answers from `opa eval` and from the gate's engine, and both answers reached. */
import { compareCorpus, corpus } from '../harness/policy-corpus.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const each = Number(process.env.EACH ?? 5_000)

process.stdout.write(`seed ${seed}\n`)
for (const name of Object.keys(corpus)) {
  const { asked, allowed, differences } = await compareCorpus(name, seed, each)
  process.stdout.write(
    `${name}: ${asked} asked, ${allowed} allowed, ${differences.length} different\n`,
  )
  if (allowed === 0 || allowed === asked) process.exitCode = 1
  for (const difference of differences.slice(0, 3)) {
    process.stdout.write(`${JSON.stringify(difference, undefined, 1)}\n`)
    process.exitCode = 1
  }
}
