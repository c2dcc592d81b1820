/** The registry of what is open: by the clock, and by one that is set. */
import t from 'tap'
import type { LiveExchange } from '../../src/domain/exchange.ts'
import type { Linked } from '../../src/domain/linked.ts'
import { LiveRegistry } from '../../src/response/live.ts'

interface Open extends LiveExchange, Linked<Open> {}

const hourMs = 3_600_000

function exchange(expiresAtMs: number): Open {
  return { startedAtUs: 1, expiresAtMs, principal: undefined, linked: false } as unknown as Open
}

t.test('what expires is found once its time has come, however the clock was set', async (t) => {
  const now = Date.now()
  const live = new LiveRegistry<Open>()
  const before = exchange(now + 60_000)
  const lasting = exchange(Number.POSITIVE_INFINITY)
  for (const each of [before, lasting]) live.add(each)
  live.settle()
  t.same(live.expired(now), [])
  // A clock that is a day ahead: whatever has expired by it is found, what comes then is filed by it.
  const other = new LiveRegistry<Open>()
  other.expired(now + 24 * hourMs)
  const late = exchange(now + 60_000)
  other.add(late)
  other.settle()
  for (const registry of [live, other]) {
    t.same(registry.expired(now + 1000), [])
    t.same(registry.expired(now + 59_000), [])
    t.equal(registry.expired(now + 60_100).length, 1)
    t.same(registry.expired(now + 61_000), [], 'and not again')
  }
  // Put back and forth once more.
  const again = exchange(now + 70_000)
  live.add(again)
  live.settle()
  for (const at of [50_000, 65_000, 40_000, 69_000]) {
    const found = live.expired(now + at)
    t.notOk(found.includes(again), `${at} ms`)
  }
  t.ok(live.expired(now + 70_100).includes(again))
})
