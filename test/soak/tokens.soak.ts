/** Tokens drawn at random, by the gate and by oauth4webapi: `SEED=… COUNT=20000 node test/soak/tokens.soak.ts`. */
import { compareTokens } from '../harness/token-oracle.ts'
import { seedOf } from '../harness/wait.ts'

const seed = seedOf()
const count = Number(process.env.COUNT ?? 20_000)
const { counts, wrong } = await compareTokens(seed, count)
process.stdout.write(
  `SEED=${seed}: ${count} tokens, ${wrong.length} accepted that should be refused\n`,
)
for (const [kind, n] of Object.entries(counts).sort()) process.stdout.write(`  ${kind}: ${n}\n`)
for (const line of wrong.slice(0, 20)) process.stdout.write(`${line}\n`)
process.exit(wrong.length === 0 ? 0 : 1)
