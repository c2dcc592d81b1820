/**
 * A sample of the crash fuzz (test/soak/history.soak.ts runs it at length): two gates beside a server whose history breaks
 * off in every way there is. No row is missed, no receipt lies, no revoked caller is let through; and without the history
 * rule the same rounds find that rows are missed.
 */
import t from 'tap'
import { faultNames } from '../harness/histories.ts'
import { planOf, type RoundPlan, runRounds } from '../harness/history-rounds.ts'
import { seedOf } from '../harness/wait.ts'

t.setTimeout(400_000)
const seed = seedOf()
t.comment(`SEED=${seed}`)
const gates = 2

/** Nothing is left to chance: the gates have seen ids that are given again, to rows, while they are away. */
const directed: readonly RoundPlan[] = (
  ['all processes killed', 'cold copy put back', 'dump restored in place'] as const
).map((fault) => ({
  ...{ seed, faults: [fault] },
  away: ['refused', 'feed only'],
  ...{ backBetween: false, busy: false, notifications: 'come' },
  // No transaction stays open: with an old id it would show that the server has gone back.
  ...{ burnt: 200, outruns: true, late: 0, transactions: 4 },
}))

t.test(
  'nothing is missed and nothing is promised wrongly after any break in the history',
  async (t) => {
    // Another half of the kinds for another seed; `make soak` runs hundreds of all.
    const half = faultNames.map((_, round) => planOf(seed, round, gates)).slice(0, 6)
    const plans = [...half, ...directed]
    const wrong: string[] = []
    const figures = await runRounds({ seed, gates, plans, say: (line) => wrong.push(line) })
    t.comment(JSON.stringify(figures))
    t.same(wrong, [])
    for (const { faults } of plans) for (const name of faults) t.ok(figures.faults[name]! > 0, name)
    const { wrongRounds, falseReceipts, phantomAllows, receipts, requests, transactions } = figures
    t.same(
      { wrongRounds, falseReceipts, phantomAllows },
      { wrongRounds: 0, falseReceipts: 0, phantomAllows: 0 },
    )
    t.ok(receipts > 0 && requests > 0 && transactions.committed! > 0, 'there was something to find')
  },
)

t.test('without the history rule such rounds find rows that are missed', async (t) => {
  const { missedRows } = await runRounds({
    ...{ seed, gates, plans: directed, historyRule: 'off' },
    say: (line) => t.comment(line),
  })
  t.ok(missedRows > 0, `${missedRows} rows were missed`)
})
