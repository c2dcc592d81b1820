/** Ten thousand refusals of every kind (`COUNT` may be given), and what is left of them. */
import { inspect } from 'node:util'
import { Boundary } from '../corpus/boundary.ts'
import { Refusals } from '../corpus/refusals.ts'

const count = Number(process.env.COUNT ?? 10_000)
const boundary = await Boundary.start()
const refusals = await Refusals.prepare(boundary)
console.log(
  `refusals: ${count} of each of ${refusals.kinds.length} kinds; a hundredth of those that wait for a deadline`,
)
// Heaps grow to their working size first: a thousand of each are not enough, three thousand are.
await refusals.run(Math.ceil(count / 3))
const before = await refusals.left()
const startedAt = performance.now()
const sent = await refusals.run(count).catch((error) => {
  // What the gate itself said is the first thing to look at.
  const said = boundary.gate.logged.filter(({ level }) => level !== 'info')
  console.log(inspect(said, { depth: 4 }))
  throw error
})
const seconds = (performance.now() - startedAt) / 1000
const after = await refusals.left()
console.log(`  ${sent} in ${seconds.toFixed(0)} s`)
console.log(`  before ${JSON.stringify(before)}\n  after  ${JSON.stringify(after)}`)
const fine =
  after.descriptors <= before.descriptors + 8 &&
  after.upstreamConnections <= before.upstreamConnections + 8 &&
  after.live === before.live &&
  after.memoryMiB < before.memoryMiB + 96
if (!fine) console.log('  something was left behind')
refusals.close()
await boundary.stop()
process.exitCode = fine ? 0 : 1
