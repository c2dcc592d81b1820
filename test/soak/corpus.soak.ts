/** Thousands of generated requests through a gate: `COUNT` and `SEED` may be given. */
import { Boundary } from '../corpus/boundary.ts'
import { generate } from '../corpus/grammar.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const count = Number(process.env.COUNT ?? 20_000)
const seed = seedOf()
console.log(`corpus: ${count} generated requests, SEED=${seed}`)
const boundary = await Boundary.start()
const random = seeded(seed)
const startedAt = performance.now()
let [allowed, failed] = [0, 0]
for (let i = 0; i < count && failed < 20; i++) {
  const each = generate(random, [0, 0.1, 0.3][i % 3]!)
  if (each.expectation.kind === 'allowed') allowed++
  try {
    await boundary.walk(each)
  } catch (error) {
    failed++
    console.log(`  ${(error as Error).message}: ${each.name}`)
  }
}
const seconds = (performance.now() - startedAt) / 1000
console.log(
  `  ${allowed} allowed, ${count - allowed} refused, ${failed} otherwise than expected, in ${seconds.toFixed(0)} s`,
)
await boundary.stop()
process.exitCode = failed === 0 ? 0 : 1
