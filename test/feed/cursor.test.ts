/** How far a cursor goes. */
import t from 'tap'
import {
  type Cursor,
  cursorOf,
  gapAfter,
  type Ident,
  partsOf,
  seenIn,
} from '../../src/feed/cursor.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const identAt = (snapshot: string, tomb_floor = '0'): Ident => ({
  ...{ snapshot, tomb_floor, generation: 'g', schema_version: 1, channel: 'c', system_id: '1' },
  ...{
    timeline: '00000001',
    standby: false,
    clock_ms: 0,
    pointers: [],
    triggers: [],
    mac_key: 1,
    queue_usage: 0,
  },
})
const at = (snapshot: string, transactions: readonly bigint[], before?: Cursor): Cursor =>
  cursorOf(identAt(snapshot), transactions, before)

t.test('a cursor goes on behind the newest transaction that was shown', (t) => {
  const held = at('700:700:', [500n, 600n])
  for (const [what, cursor, seen] of [
    ['nothing is there', at('700:700:', []), '1:1:'],
    ['all is over', held, '601:601:'],
    ['one is open below, one beyond', at('550:700:550,650', [600n]), '550:601:550'],
    ['open beyond only', at('650:700:650', [600n]), '601:601:'],
    ['the newest of all', at('700:700:', [699n]), '700:700:'],
    ['a stamp of another server', at('700:700:', [600n, 900n, 700n]), '601:601:'],
    ['nothing new', at('800:800:', [], held), '601:601:'],
    ['a later one', at('800:800:', [750n], held), '751:751:'],
    ['an older one took the place of the newest', at('800:800:', [550n], held), '601:601:'],
  ] as const) {
    t.equal(cursor.seen, seen, what)
  }
  t.end()
})

t.test('databases that went back, and purged tombstones, are found as before', (t) => {
  const held = at('550:700:550', [600n])
  t.equal(gapAfter(held, identAt('700:700:')), undefined)
  t.match(gapAfter(held, identAt('650:650:')), /gone back/)
  t.match(gapAfter(held, identAt('540:800:540')), /gone back/)
  t.equal(gapAfter(at('700:700:', [600n]), identAt('700:700:', '600')), undefined)
  t.match(gapAfter(at('700:700:', [600n]), identAt('800:800:', '601')), /purged/)
  t.match(gapAfter(held, identAt('800:800:', '550')), /purged/)
  t.end()
})

t.test('any history: what was shown is seen, what is open or has no row is not', (t) => {
  const seed = seedOf()
  t.comment(`SEED=${seed}`)
  const random = seeded(seed)
  const some = (xids: readonly bigint[], share: number): bigint[] =>
    xids.filter(() => random() < share)
  for (let i = 0; i < 500; i++) {
    let cursor: Cursor | undefined
    let open: bigint[] = []
    let next = 3n
    const shown = new Set<bigint>()
    for (let tick = 0; tick < 6; tick++) {
      const begun = Array.from({ length: Math.floor(random() * 6) }, (_, n) => next + BigInt(n))
      next += BigInt(begun.length)
      const running = [...open, ...begun]
      open = some(running, 0.4)
      const over = running.filter((xid) => !open.includes(xid))
      const rows = some(over, 0.5)
      const missing = rows.filter((xid) => cursor !== undefined && seenIn(cursor.seen)(xid))
      if (missing.length > 0) t.fail(`${missing} were seen before they were over`)
      for (const xid of rows) shown.add(xid)
      cursor = at(`${open[0] ?? next}:${next}:${open.join()}`, rows, cursor)
      const seen = seenIn(cursor.seen)
      const wrong = [...shown].filter((xid) => !seen(xid)).concat(open.filter(seen))
      if (wrong.length > 0) t.fail(`${cursor.seen} is wrong about ${wrong}`)
      const { xmin, xmax, open: inside } = partsOf(cursor.seen)
      // PostgreSQL takes no other snapshot.
      if (xmin > xmax || inside.some((xid) => xid < xmin || xid >= xmax)) t.fail(cursor.seen)
      const newest = [...shown].reduce((most, xid) => (xid > most ? xid : most), 0n)
      if (xmax !== newest + 1n) t.fail(`${cursor.seen} is not behind ${newest}`)
    }
  }
  t.pass('in 500 histories')
  t.end()
})
