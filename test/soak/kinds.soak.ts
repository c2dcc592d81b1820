/** Ten kinds of policies, 100,000 requests: the same answers from `opa eval` and from the gate's engine. */
import { compareKind, kinds } from '../harness/kinds.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const each = Number(process.env.EACH ?? 10_000)

process.stdout.write(`seed ${seed}\n`)
for (const name of Object.keys(kinds)) {
  const { asked, allowed, differences } = await compareKind(name, seed, each)
  process.stdout.write(
    `${name}: ${asked} asked, ${allowed} allowed, ${differences.length} different\n`,
  )
  for (const difference of differences.slice(0, 3)) {
    process.stdout.write(`${JSON.stringify(difference, undefined, 1)}\n`)
    process.exitCode = 1
  }
}
