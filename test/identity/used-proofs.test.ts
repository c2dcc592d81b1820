/** The memory of used proofs: once is once, also for workers that ask at the same moment, and whatever their clocks say. */
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { UsedProofs } from '../../src/identity/used-proofs.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const key = 'K'.repeat(43)
const other = 'L'.repeat(43)
const nowS = 1_800_000_000
const sinceMs = (nowS - 60) * 1000
const make = (bytes = 1 << 16): UsedProofs =>
  new UsedProofs(UsedProofs.create(bytes, 60_000, sinceMs))

t.test('a proof is good once; key and jti tell it from others', async (t) => {
  const shared = UsedProofs.create(1 << 16, 60_000, sinceMs)
  const [one, two] = [new UsedProofs(shared), new UsedProofs(shared)]
  t.equal(one.use(key, 'a', nowS, nowS), 'first')
  t.equal(one.use(key, 'a', nowS, nowS), 'again')
  t.equal(two.use(key, 'a', nowS, nowS), 'again', 'from another worker')
  t.equal(two.use(other, 'a', nowS, nowS), 'first', 'of another key')
  t.equal(two.use(key, 'b', nowS, nowS), 'first', 'another jti')
  const secret = 'another secret'
  t.equal(new UsedProofs({ ...shared, secret }).use(key, 'a', nowS, nowS), 'first')
})

t.test('a jti is used up also where its second proof is younger or older', async (t) => {
  for (const age of [-59, -31, -10, -1, 1, 4]) {
    const used = make()
    t.equal(used.use(key, 'a', nowS, nowS), 'first')
    t.equal(used.use(key, 'a', nowS + age, nowS + Math.max(0, age)), 'again', `${age} s`)
  }
})

t.test('a proof is remembered until it is too old, however many others come', async (t) => {
  const seed = seedOf()
  const random = seeded(seed)
  const used = make(1 << 17)
  const held: { jti: string; madeAtS: number }[] = []
  let again = 0
  for (let i = 0; i < 20_000; i++) {
    // Two minutes and a half of clock; proofs are up to 55 s old, or up to 5 s ahead.
    const clockS = nowS + i / 130
    const proof = { jti: `${seed}-${i}`, madeAtS: clockS + 5 - random() * 60 }
    if (used.use(key, proof.jti, proof.madeAtS, clockS) !== 'first') t.fail(`${i} (SEED=${seed})`)
    held.push(proof)
    const old = held[Math.floor(random() * held.length)]!
    if (clockS >= old.madeAtS + 60) continue
    again++
    const use = used.use(key, old.jti, old.madeAtS, clockS)
    if (use !== 'again') t.fail(`${use}: ${clockS - old.madeAtS} s old (SEED=${seed})`)
  }
  t.ok(again > 5000, `${again} were presented again`)
})

t.test(
  'where the clock is set back, a proof that may have been forgotten is refused',
  async (t) => {
    const used = make(1 << 13)
    const proofs = Array.from({ length: 100 }, (_, i) => `old-${i}`)
    for (const jti of proofs) t.equal(used.use(key, jti, nowS, nowS), 'first')
    // A round of the ring later: the slots are taken by others.
    for (let i = 0; i < 128; i++) used.use(other, `new-${i}`, nowS + 80, nowS + 80)
    for (const jti of proofs) t.not(used.use(key, jti, nowS, nowS), 'first', jti)
    t.ok(proofs.some((jti) => used.use(key, jti, nowS, nowS) === 'forgotten'))
  },
)

t.test('a proof from before the memory may have been used, and is refused', async (t) => {
  const used = new UsedProofs(UsedProofs.create(1 << 16, 60_000, nowS * 1000 + 900))
  t.equal(used.use(key, 'a', nowS - 0.1, nowS + 1), 'forgotten')
  t.equal(used.use(key, 'a', nowS, nowS + 1), 'first')
})

t.test('a full memory refuses and forgets nothing; with time there is room again', async (t) => {
  const used = make(1 << 13)
  const uses = Array.from({ length: 200 }, (_, i) => used.use(key, `${i}`, nowS, nowS))
  t.same([...new Set(uses)], ['first', 'full'], 'up to the size of a segment')
  t.equal(uses.filter((use) => use === 'first').length, (1 << 13) / 8 / 8)
  for (const [i, use] of uses.entries())
    t.equal(used.use(key, `${i}`, nowS, nowS), use === 'first' ? 'again' : 'full')
  t.equal(used.use(key, 'later', nowS + 10, nowS + 10), 'first', 'the next slice')
  t.equal(used.use(key, 'much later', nowS + 80, nowS + 80), 'first', 'the segment comes round')
})

t.test(
  'workers that present the same proofs at the same moment pass each of them once',
  async (t) => {
    const shared = UsedProofs.create(1 << 21, 60_000, sinceMs)
    const threads = 4
    const rounds = 40
    const perRound = 250
    const barrier = new Int32Array(new SharedArrayBuffer(4))
    const counts = new Int32Array(new SharedArrayBuffer(4 * rounds * perRound))
    const workers = Array.from({ length: threads }, (_, index) => {
      const workerData = { shared, barrier, counts, threads, rounds, perRound, index, key, nowS }
      return new Worker(new URL('../harness/proof-racer.ts', import.meta.url), { workerData })
    })
    await Promise.all(
      workers.map(
        (worker) =>
          new Promise<void>((resolve, reject) =>
            worker.once('exit', () => resolve()).once('error', reject),
          ),
      ),
    )
    const wrong = [...counts].filter((passed) => passed !== 1)
    t.same(wrong, [], `each of ${counts.length} proofs passed exactly one of ${threads} workers`)
  },
)
