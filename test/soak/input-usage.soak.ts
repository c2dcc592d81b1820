/** Drawn policies answer alike with the whole input and with what the analysis says that they read. */
import { sweepReads } from '../harness/read-policies.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const rounds = Number(process.env.ROUNDS ?? 40)

for (let round = 0; round < rounds; round++) {
  const from = (seed + round) >>> 0
  const { policies, asked, narrow, answers, differences } = await sweepReads(from, 200, 60)
  process.stdout.write(
    `seed ${from}: ${policies} policies, ${narrow} of them read a part only, ${asked} asked, ${answers} answers, ${differences.length} different\n`,
  )
  for (const difference of differences.slice(0, 3)) {
    process.stdout.write(`${JSON.stringify(difference, undefined, 1).replaceAll('\\n', '\n')}\n`)
    process.exitCode = 1
  }
}
