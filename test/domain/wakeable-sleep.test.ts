/** The pauses of a loop: what ends one, and what keeps the next from beginning. Far-off times stand for ever here. */
import t from 'tap'
import { WakeableSleep } from '../../src/domain/wakeable-sleep.ts'

const longMs = 3_600_000

async function ended(pause: Promise<void>): Promise<boolean> {
  let over = false
  void pause.then(() => {
    over = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  return over
}

t.test('a sleep ends by its time, by a call, and by the end of the loop', async (t) => {
  const sleep = new WakeableSleep()
  await sleep.sleep(1)
  const first = sleep.sleep(longMs)
  t.equal(await ended(first), false)
  sleep.wake()
  t.equal(await ended(first), true)
  t.equal(await ended(sleep.sleep(0)), true)
  const open = sleep.sleep(longMs)
  t.equal(await ended(open), false)
  sleep.close()
  t.equal(await ended(open), true)
  t.equal(await ended(sleep.sleep(longMs)), true)
})

t.test('a call during a round is known until the next round begins', async (t) => {
  const sleep = new WakeableSleep()
  t.equal(sleep.woken, false)
  sleep.wake()
  t.equal(sleep.woken, true)
  const retry = sleep.sleep(longMs)
  t.equal(await ended(retry), false, 'a pause after a failure is kept')
  sleep.reset()
  t.equal(sleep.woken, false)
  sleep.close()
})
