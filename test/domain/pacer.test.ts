/** The pauses of a loop: what ends one, and what keeps the next from beginning. Far-off times stand for ever here. */
import t from 'tap'
import { Pacer } from '../../src/domain/pacer.ts'

const longMs = 3_600_000

async function ended(pause: Promise<void>): Promise<boolean> {
  let over = false
  void pause.then(() => {
    over = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  return over
}

t.test('a pause ends by its time, by a call, and by the end of the loop', async (t) => {
  const pacer = new Pacer()
  await pacer.pause(1)
  const first = pacer.pause(longMs)
  t.equal(await ended(first), false)
  pacer.wake()
  t.equal(await ended(first), true)
  const last = pacer.untilWoken(0)
  t.equal(await ended(last), true)
  pacer.begin()
  const open = pacer.untilWoken(longMs)
  t.equal(await ended(open), false)
  pacer.close()
  t.equal(await ended(open), true)
  t.equal(await ended(pacer.pause(longMs)), true)
})

t.test('a call during a round counts in that round only', async (t) => {
  const pacer = new Pacer()
  pacer.wake()
  t.equal(await ended(pacer.untilWoken(longMs)), true)
  const whatever = pacer.pause(longMs)
  t.equal(await ended(whatever), false, 'a pause after a failure is kept')
  pacer.wake()
  pacer.begin()
  const next = pacer.untilWoken(longMs)
  t.equal(await ended(next), false)
  pacer.close()
})
