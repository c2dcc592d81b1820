/** A sample of OPA's own cases on our engine, another one each time; `make conformance` runs all of them. */
import t from 'tap'
import { findOpaSource, readCases } from './cases.ts'
import { judge } from './verdict.ts'

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)
const size = 80

t.test(`the engine passes a sample of OPA’s cases (SEED=${seed})`, async (t) => {
  const cases = readCases(findOpaSource())
  t.equal(cases.length, 4427)
  let state = seed
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  const sample = Array.from({ length: size }, () => cases.splice(random(cases.length), 1)[0]!)
  const queue = sample.values()
  await Promise.all(
    [1, 2].map(async () => {
      for (const each of queue) {
        const { verdict, why } = await judge(each)
        t.not(verdict, 'fail', `${each.version} ${each.note}: ${why}`)
      }
    }),
  )
})
