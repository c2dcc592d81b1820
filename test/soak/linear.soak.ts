/** Revocations, lifts and requests on two gates under faults and crashes of the server, for minutes: `MINUTES` and `SEED` may be given. */
import { record } from '../harness/recorded.ts'
import { seedOf } from '../harness/wait.ts'

const minutes = Number(process.env.MINUTES ?? 10)
const seed = seedOf()
console.log(`linearizability: ${minutes} minutes, SEED=${seed}`)
let failed = false
// Gates that trust what they know for too long must be found out, or this proves nothing.
const gullible = await record({ ms: 20_000, seed, faults: true, trustMs: 30_000 })
console.log(
  `  gates that trust for 30 s: ${gullible.late.length} late, ${gullible.unexplained.length} not explained`,
)
if (gullible.late.length === 0 || gullible.unexplained.length === 0) {
  failed = true
  console.log('  gates that trust for 30 s were not found out')
}
// In runs of a minute: a history is checked as a whole.
for (let run = 0; run < minutes; run++) {
  const found = await record({ ms: 60_000, seed: seed + run, faults: true })
  const { requests, unavailable, writes, uncertain, faults, crashes } = found
  console.log(
    `  ${requests} requests (${unavailable} answered 503), ${writes} writes and ${uncertain} without acknowledgement, ` +
      `${faults} faults, ${JSON.stringify(crashes)}`,
  )
  for (const problem of [...found.late, ...found.unexplained]) {
    failed = true
    console.log(`  ${problem}`)
  }
}
process.exitCode = failed ? 1 : 0
