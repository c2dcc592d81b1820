/**
 * 500 rounds of broken histories on three gates: no row is missed, no receipt lies, no revoked caller is let through. The
 * same seeds with the history rule switched off miss rows, or this proves nothing. `ROUNDS` and `SEED` may be given; `RULE`
 * for one of the two runs.
 */
import { type Figures, planOf, runRounds } from '../harness/history-rounds.ts'
import { seedOf } from '../harness/wait.ts'

const rounds = Number(process.env.ROUNDS ?? 500)
const seed = seedOf()
const gates = 3
const plans = Array.from({ length: rounds }, (_, round) => planOf(seed, round, gates))
const say = (line: string): void => console.log(`  ${line}`)

async function run(historyRule: 'off' | undefined): Promise<Figures> {
  console.log(`histories: ${rounds} rounds, SEED=${seed}, history rule ${historyRule ?? 'on'}`)
  const startedAt = performance.now()
  const figures = await runRounds({ seed, gates, historyRule, plans, say })
  const seconds = Math.round((performance.now() - startedAt) / 1000)
  console.log(`  ${seconds} s: ${JSON.stringify(figures, undefined, 1).replaceAll('\n', '\n  ')}`)
  return figures
}

// Ended by a signal, it takes its servers along.
for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => process.exit(1))
let fine = true
if (process.env.RULE !== 'off') {
  const { wrongRounds, falseReceipts, phantomAllows } = await run(undefined)
  fine &&= wrongRounds + falseReceipts + phantomAllows === 0
}
if (process.env.RULE !== 'on') fine &&= (await run('off')).missedRows >= rounds / 25
process.exit(fine ? 0 : 1)
