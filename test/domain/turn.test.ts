/** What is done at the end of a turn of the event loop, and in which order. */
import t from 'tap'
import { afterWrites, atEndOfTurn } from '../../src/domain/turn.ts'

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

t.test('writes come first, in their order, then what nobody waits for', async (t) => {
  const done: string[] = []
  afterWrites(() => done.push('record 1'))
  atEndOfTurn(() => done.push('write 1'))
  afterWrites(() => done.push('record 2'))
  atEndOfTurn(() => done.push('write 2'))
  await Promise.resolve()
  t.same(done, [], 'not before the turn ends')
  await nextTurn()
  t.same(done, ['write 1', 'write 2', 'record 1', 'record 2'])
})

t.test('a task may bring others, which have their own turn', async (t) => {
  const done: string[] = []
  atEndOfTurn(() => {
    done.push('first')
    atEndOfTurn(() => done.push('second'))
    afterWrites(() => done.push('third'))
  })
  await nextTurn()
  t.same(done, ['first'])
  await nextTurn()
  t.same(done, ['first', 'second', 'third'])
})
