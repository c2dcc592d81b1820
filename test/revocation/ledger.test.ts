import fc from 'fast-check'
import t from 'tap'
import { keyBytes, keyOf, kinds, type RevocationRow } from '../../src/domain/revocation.ts'
import {
  filedAlike,
  Ledger,
  type LedgerShared,
  LedgerView,
  newEntry,
} from '../../src/revocation/ledger.ts'

function keysFor(...predicates: [keyof typeof kinds, string, string][]): Buffer {
  return Buffer.concat(
    predicates.map(([kind, issuer, value]) =>
      Buffer.concat([Buffer.of(kinds[kind]), keyOf(kind, issuer, value)]),
    ),
  )
}

function row(id: number, keys: Buffer, more: Partial<RevocationRow> = {}): RevocationRow {
  return { id, keys, cutoffUs: null, exact: false, authTime: false, expiresAtS: null, ...more }
}

/** A row as text, byte for byte; what is exact about a block means nothing. */
function comparable(rows: Iterable<RevocationRow>): string[] {
  return [...rows]
    .map(({ id, keys, cutoffUs, exact, authTime, expiresAtS }) => {
      const cutoff = cutoffUs === null ? null : [cutoffUs, exact, authTime]
      return JSON.stringify([id, Buffer.from(keys).toString('hex'), cutoff, expiresAtS])
    })
    .sort()
}

t.test('the ledger equals a map under any sequence of writes and removals', async (t) => {
  const subjects = ['a', 'b', 'c', 'd', '']
  const write = fc.record({
    op: fc.constant('write' as const),
    id: fc.integer({ min: 1, max: 12 }),
    subject: fc.constantFrom(...subjects),
    session: fc.option(fc.constantFrom('s1', 's2')),
    first: fc.boolean(),
    cutoffUs: fc.option(fc.integer({ min: 946_684_800_000_000, max: 7_258_118_400_000_000 })),
    exact: fc.boolean(),
    authTime: fc.boolean(),
    expiresAtS: fc.option(fc.integer({ min: 946_684_802, max: 5_241_652_095 })),
  })
  const remove = fc.record({
    op: fc.constant('remove' as const),
    id: fc.integer({ min: 1, max: 12 }),
  })
  fc.assert(
    fc.property(fc.array(fc.oneof(write, remove), { maxLength: 200 }), (steps) => {
      const ledger = Ledger.create(500)
      const model = new Map<number, RevocationRow>()
      for (const step of steps) {
        const old = model.get(step.id)
        if (step.op === 'remove') {
          if (old !== undefined) ledger.remove(old.id, old.keys)
          model.delete(step.id)
          continue
        }
        const predicates: [keyof typeof kinds, string, string][] = [['subject', '', step.subject]]
        if (step.session !== null) {
          const session: (typeof predicates)[0] = ['session_id', 'iss', step.session]
          step.first ? predicates.unshift(session) : predicates.push(session)
        }
        const next = row(step.id, keysFor(...predicates), step)
        // As the feed does it: the row first, then the tombstone of its old keys, unless it has taken their place.
        ledger.upsert(next)
        if (old !== undefined && !filedAlike(old.keys, next.keys)) ledger.remove(old.id, old.keys)
        model.set(step.id, next)
      }
      const reader = LedgerView.attach(ledger.shared)
      t.strictSame(comparable(reader.entries()), comparable(model.values()))
      t.equal(reader.rows, model.size)
      for (const held of model.values()) {
        t.ok(ledger.holds(held))
        t.notOk(ledger.holds({ ...held, id: held.id + 100 }), 'another id')
        t.notOk(ledger.holds({ ...held, cutoffUs: (held.cutoffUs ?? 1e15) + 1 }), 'another cutoff')
        t.notOk(ledger.holds({ ...held, expiresAtS: (held.expiresAtS ?? 1e9) + 1 }), 'another end')
        t.notOk(ledger.holds({ ...held, keys: keysFor(['subject', '', 'other']) }), 'other keys')
      }
    }),
    { numRuns: 60 },
  )
})

t.test('the same row written twice is one row', async (t) => {
  const ledger = Ledger.create(10)
  ledger.upsert(row(7, keysFor(['subject', '', 'alice'])))
  ledger.upsert(row(7, keysFor(['subject', '', 'alice']), { cutoffUs: 1e15 }))
  t.equal(ledger.rows, 1)
  t.strictSame(
    [...ledger.entries()].map((r) => r.cutoffUs),
    [1e15],
  )
})

t.test('ids above 2^32 keep every bit', async (t) => {
  const ledger = Ledger.create(10)
  const id = 2 ** 53 - 1
  ledger.upsert(row(id, keysFor(['subject', '', 'alice'])))
  t.strictSame(
    [...ledger.entries()].map((r) => r.id),
    [id],
  )
  ledger.remove(id - 1, keysFor(['subject', '', 'alice']))
  t.equal(ledger.rows, 1)
  ledger.remove(id, keysFor(['subject', '', 'alice']))
  t.equal(ledger.rows, 0)
})

t.test('without room the row is refused and what is held stays', async (t) => {
  const ledger = Ledger.create(1)
  let id = 1
  const more = (): void => ledger.upsert(row(id, keysFor(['subject', '', `${id}`])))
  for (; ledger.hasRoom(1); id++) more()
  t.throws(more, { code: 'ERR_LEDGER_FULL' })
  t.equal([...ledger.entries()].length, id - 1)
  await ledger.reserve(1, 0)
  more()
  t.equal(ledger.rows, id)
})

t.test('dead slots are never reused; a new table leaves them behind', async (t) => {
  const ledger = Ledger.create(1)
  const keys = keysFor(['subject', '', 'alice'])
  for (let i = 1; i <= 20_000; i++) {
    const waiting = ledger.reserve(1, 0)
    if (waiting !== undefined) await waiting
    ledger.upsert(row(i, keys))
    ledger.remove(i, keys)
  }
  await ledger.settled()
  t.equal(ledger.rows, 0)
  t.ok(ledger.growths > 5, `${ledger.growths} tables`)
  t.ok(ledger.table.slots <= 2048, 'and none is larger than it need be')
})

t.test(
  'growth: a reader of either table misses nothing until it has let go of the old one',
  async (t) => {
    let letGo: () => void = () => {}
    const handed: LedgerShared[] = []
    const ledger = Ledger.create(1, (shared) => {
      handed.push(shared)
      return new Promise((resolve) => {
        letGo = resolve
      })
    })
    const model = new Map<number, RevocationRow>()
    const write = (id: number, more: Partial<RevocationRow> = {}): void => {
      const next = row(id, keysFor(['subject', '', `${id}`], ['client_id', 'i', `${id % 7}`]), more)
      ledger.upsert(next)
      model.set(id, next)
    }
    const old = LedgerView.attach(ledger.shared)
    for (let id = 1; !ledger.table.isFilling(10, 10); id++) write(id)
    const growing = ledger.reserve(10, 10)
    t.equal(growing, undefined, 'there is room yet: nobody waits')
    for (let id = 2000; id < 2010; id++) write(id)
    write(3, { cutoffUs: 1e15, exact: true })
    ledger.remove(4, model.get(4)!.keys)
    model.delete(4)
    while (handed.length === 0) await new Promise((resolve) => setImmediate(resolve))
    ledger.remove(5, model.get(5)!.keys)
    model.delete(5)
    write(6, { expiresAtS: 1_000_000_000 })
    write(2011)
    const expected = comparable(model.values())
    t.strictSame(comparable(old.entries()), expected, 'the old table')
    t.strictSame(comparable(LedgerView.attach(handed[0]!).entries()), expected, 'the new one')
    letGo()
    await ledger.settled()
    write(2012)
    t.strictSame(comparable(ledger.entries()), comparable(model.values()))
    t.equal(old.version, ledger.version, 'one version for both')
  },
)

t.test('the sums are those of the rows, however they came to be', async (t) => {
  const ledger = Ledger.create(10)
  const other = Ledger.create(10)
  const all = Array.from({ length: 500 }, (_, i) =>
    row(i + 1, keysFor(['subject', '', `${i}`]), {
      cutoffUs: i % 3 === 0 ? 1e15 + i : null,
      expiresAtS: i % 2 === 0 ? 2e9 : null,
    }),
  )
  for (const each of all) {
    await ledger.reserve(2, 0)
    ledger.upsert({ ...each, cutoffUs: 5 })
    ledger.upsert(each)
    ledger.upsert(each)
  }
  ledger.remove(7, all[6]!.keys)
  for (const each of all.reverse()) {
    await other.reserve(1, 0)
    if (each.id !== 7) other.upsert(each)
  }
  t.strictSame(ledger.digest.sums, other.digest.sums)
  other.upsert({ ...all[0]!, cutoffUs: 12 })
  t.notSame(ledger.digest.sums, other.digest.sums)
})

t.test(
  'an unknown predicate is dropped, which widens; a row of nothing else is refused',
  async (t) => {
    const unknown = Buffer.alloc(keyBytes, 0xee)
    const ledger = Ledger.create(10)
    ledger.upsert(row(1, Buffer.concat([unknown, keysFor(['subject', '', 'alice'])])))
    t.equal([...ledger.entries()][0]!.keys.length, keyBytes)
    ledger.remove(1, Buffer.concat([unknown, keysFor(['subject', '', 'alice'])]))
    t.equal(ledger.rows, 0)
    t.throws(() => ledger.upsert(row(2, unknown)), { code: 'ERR_LEDGER_UNMATCHABLE' })
    t.throws(() => ledger.upsert(row(3, Buffer.alloc(5, 3))), { code: 'ERR_LEDGER_UNMATCHABLE' })
  },
)

t.test(
  'what is known ages by the monotonic clock, and by the wall clock once that has jumped',
  async (t) => {
    const ledger = Ledger.create(10)
    t.equal(ledger.ageMs(1e9, 1e12), Number.POSITIVE_INFINITY)
    const [s, ns] = process.hrtime()
    const nowUs = s * 1e6 + ns / 1e3
    ledger.fresh(nowUs, 0)
    const wall = Date.now()
    t.ok(Math.abs(ledger.ageMs(nowUs + 3_000_000, wall + 3000) - 3000) < 50)
    t.ok(
      ledger.ageMs(nowUs + 1_000_000, wall + 60_000) > 59_000,
      'a machine that slept a minute is a minute stale',
    )
    t.ok(
      ledger.ageMs(nowUs + 3_000_000, wall - 60_000) >= 2999,
      'a wall clock set back does not make it fresh',
    )
  },
)

t.test('a row is held only if it is in every table that a worker may read', async (t) => {
  let ledger: Ledger | undefined
  const asked: boolean[][] = []
  const [kept, lost, loaded] = [1, 2, 3].map((id) => row(id, keysFor(['subject', '', `${id}`])))
  const ask = (): void => {
    asked.push([kept!, lost!, loaded!].map((each) => ledger!.holds(each)))
  }
  ledger = Ledger.create(10, async () => ask())
  ledger.upsert(kept!)
  ledger.upsert(lost!)
  const loading = ledger.startLoad(10)
  for (const { id, keys } of [kept!, loaded!]) {
    const bytes = new DataView(keys.buffer, keys.byteOffset, keys.byteLength)
    loading.insert({ ...newEntry(), id, bytes, keysAt: 0 }, keys.length, 0)
  }
  ask()
  await ledger.finishLoad(loading, async () => {})
  ask()
  t.same(asked, [
    [true, true, false],
    [true, false, false],
    [true, false, true],
  ])
})
