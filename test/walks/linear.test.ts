/** Recorded revocations, lifts and requests on two gates under faults and crashes of the server are linearizable; so is the checker sound. */
import t from 'tap'
import { type Operation, unexplained } from '../harness/linear.ts'
import { lateReads, record } from '../harness/recorded.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const write = (value: boolean, call: number, back: number): Operation<boolean> => ({
  kind: 'write',
  value,
  call,
  return: back,
})
const read = (value: boolean, call: number, back: number): Operation<boolean> => ({
  kind: 'read',
  value,
  call,
  return: back,
})
const never = Number.POSITIVE_INFINITY

const fine: [string, Operation<boolean>[]][] = [
  ['nothing', []],
  ['a read before any write', [read(false, 0, 1)]],
  [
    'both values while a write is under way',
    [write(true, 0, 10), read(false, 1, 4), read(true, 5, 6)],
  ],
  ['overlapping reads that disagree', [write(true, 0, 10), read(true, 1, 9), read(false, 2, 8)]],
  ['a lift that no read sees', [write(true, 0, 1), write(false, 2, never), read(true, 50, 51)]],
  [
    'a lift that is overtaken by the next row',
    [write(true, 0, 1), write(false, 2, never), write(true, 3, 4), read(true, 5, 6)],
  ],
  [
    'a write without acknowledgement that did not happen and was tried again',
    [write(true, 0, never), read(false, 5, 6), write(true, 9, 10), read(true, 11, 12)],
  ],
  [
    'one that happened and was tried again',
    [write(true, 0, never), read(false, 5, 6), read(true, 7, 8), write(true, 9, 10)],
  ],
]
for (const [name, history] of fine) {
  t.test(`explained: ${name}`, async (t) => {
    t.equal(unexplained(false, history), undefined)
    t.same(lateReads(history), [])
  })
}

const broken: [string, Operation<boolean>[]][] = [
  ['allowed after the bound', [write(true, 0, 10), read(false, 11, 12)]],
  ['denied before anything was revoked', [read(true, 0, 1), write(true, 2, 3)]],
  [
    'denied, then allowed within the bound',
    [write(true, 0, 10), read(true, 1, 2), read(false, 3, 4)],
  ],
  [
    'allowed again without a lift',
    [
      write(true, 0, 1),
      write(false, 5, never),
      read(false, 6, 7),
      write(true, 8, 9),
      read(false, 10, 11),
    ],
  ],
  [
    'allowed and denied again after a lift was seen',
    [write(true, 0, 1), write(false, 2, never), read(false, 3, 4), read(true, 5, 6)],
  ],
  [
    'denied by a write without acknowledgement, then allowed',
    [write(true, 0, never), read(true, 1, 2), read(false, 3, 4)],
  ],
  [
    'allowed after the bound although a lift without acknowledgement was tried later only',
    [write(true, 0, 1), read(false, 2, 3), write(false, 4, never)],
  ],
  [
    'two readers that see one change in two orders',
    [
      write(true, 0, 20),
      write(false, 0, 20),
      ...[read(true, 1, 2), read(false, 3, 4), read(true, 5, 6)],
    ],
  ],
]
for (const [name, history] of broken) {
  t.test(`not explained: ${name}`, async (t) => {
    t.ok(unexplained(false, history))
  })
}

t.test('a read after the bound is found without a search too', async (t) => {
  t.equal(lateReads(broken[0]![1]).length, 1)
  t.equal(lateReads([write(true, 0, 10), read(false, 9, 12)]).length, 0)
  t.equal(lateReads([write(true, 0, 10), write(false, 11, never), read(false, 12, 13)]).length, 0)
})

t.test(
  'histories of a register are explained, and are not once one read of them lies',
  async (t) => {
    const seed = seedOf()
    t.comment(`SEED=${seed}`)
    const random = seeded(seed)
    let caught = 0
    for (let run = 0; run < 100; run++) {
      const history: Operation<boolean>[] = []
      let [value, written] = [false, -10]
      // The moments at which things happen are known here; what is recorded are intervals around them.
      for (let at = 0; at < 200; at += 1 + random() * 6) {
        const [before, after] = [random() * 4, random() * 4]
        if (random() < 0.2) {
          value = !value
          // One writer: the next write is called after the one before has happened.
          history.push(write(value, Math.max(written, at - before), at + after))
          written = at
        } else history.push(read(value, at - before, at + after))
      }
      t.equal(unexplained(false, history), undefined)
      const alone = history.findIndex(
        (op) =>
          op.kind === 'read' &&
          history.every(
            (other) => other.kind === 'read' || other.return < op.call || other.call > op.return,
          ),
      )
      if (alone === -1) continue
      const lie = { ...history[alone]!, value: !history[alone]!.value }
      t.ok(unexplained(false, history.with(alone, lie)))
      caught++
    }
    t.ok(caught > 80)
  },
)

t.test(
  'two gates under faults and crashes allow nothing too late, and each is one register',
  async (t) => {
    const seed = seedOf()
    t.comment(`SEED=${seed}`)
    const found = await record({ ms: 8000, seed, faults: true })
    t.comment(JSON.stringify(found))
    t.same(found.late, [])
    t.same(found.unexplained, [])
    t.ok(found.requests > 100 && found.writes > 4 && found.faults > 3)
    t.ok(Object.keys(found.crashes).length > 1)
  },
)
