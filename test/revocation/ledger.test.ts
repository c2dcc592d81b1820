import fc from 'fast-check'
import t from 'tap'
import { keyBytes, keyOf, kinds, type RevocationRow } from '../../src/domain/revocation.ts'
import { Ledger, LedgerView } from '../../src/revocation/ledger.ts'

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

/** What the ledger gives back of a row: the kind byte of overflow keys is inside their digest, not beside it. */
function comparable(rows: Iterable<RevocationRow>): string[] {
  return [...rows]
    .map((r) => {
      const digests: string[] = []
      for (let at = 0; at < r.keys.length; at += keyBytes) {
        digests.push(Buffer.from(r.keys.subarray(at + 1, at + keyBytes)).toString('hex'))
      }
      return JSON.stringify([
        r.id,
        digests,
        r.cutoffUs,
        r.cutoffUs !== null && r.exact,
        r.cutoffUs !== null && r.authTime,
        r.expiresAtS,
      ])
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
        if (step.session !== null) predicates.unshift(['session_id', 'iss', step.session])
        const next = row(step.id, keysFor(...predicates), step)
        // As the feed does it: the tombstone of the old keys first, then the row.
        if (old !== undefined) ledger.remove(old.id, old.keys)
        ledger.upsert(next)
        model.set(step.id, next)
      }
      const reader = LedgerView.attach(ledger.shared)
      t.strictSame(comparable(reader.entries()), comparable(model.values()))
      t.equal(reader.rows, model.size)
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

t.test('a full ledger refuses the row and keeps what it has', async (t) => {
  const ledger = Ledger.create(1)
  for (let id = 1; id <= ledger.capacity; id++)
    ledger.upsert(row(id, keysFor(['subject', '', `${id}`])))
  t.throws(() => ledger.upsert(row(1_000_000, keysFor(['subject', '', 'late']))), {
    code: 'ERR_LEDGER_FULL',
  })
  t.equal([...ledger.entries()].length, ledger.capacity)
})

t.test('dead slots are not reused, so removals do not make room', async (t) => {
  const ledger = Ledger.create(1)
  const keys = keysFor(['subject', '', 'alice'])
  for (let i = 0; i < ledger.capacity; i++) {
    ledger.upsert(row(i + 1, keys))
    ledger.remove(i + 1, keys)
  }
  t.equal(ledger.rows, 0)
  t.throws(() => ledger.upsert(row(9, keys)), { code: 'ERR_LEDGER_FULL' })
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
