/** Snapshots, and the databases in which a cursor cannot go on. */
import t from 'tap'
import { gapAfter, type Ident } from '../../src/feed/cursor.ts'
import { covers, History } from '../../src/feed/history.ts'

const identAt = (snapshot: string, other: Partial<Ident> = {}): Ident => ({
  ...{ snapshot, tomb_floor: '0', generation: 'g', schema_version: 1, channel: 'c' },
  ...{ system_id: '1', relation: '2', standby: false, clock_ms: 0, anchor: null },
  ...{ anchor_snapshot: null, pointers: [], triggers: [], mac_key: 1, queue_usage: 0 },
  ...other,
})

t.test('databases that are others, or have lost what a gate needs, are found', (t) => {
  const held = identAt('550:700:550')
  t.equal(gapAfter(held, identAt('700:700:')), undefined)
  t.match(gapAfter(held, identAt('650:650:')), /gone back/)
  t.match(gapAfter(held, identAt('540:800:540')), /gone back/)
  t.match(gapAfter(held, identAt('700:700:', { system_id: '9' })), /another database cluster/)
  t.match(gapAfter(held, identAt('700:700:', { relation: '9' })), /made anew/)
  t.match(gapAfter(held, identAt('700:700:', { generation: 'h' })), /reset_feed/)
  const after = identAt('700:700:')
  t.equal(gapAfter(after, identAt('700:700:', { tomb_floor: '600' })), undefined)
  t.match(gapAfter(after, identAt('800:800:', { tomb_floor: '701' })), /purged/)
  t.match(gapAfter(held, identAt('800:800:', { tomb_floor: '550' })), /purged/)
  t.end()
})

t.test('a snapshot covers another when all that had ended there has ended in it', (t) => {
  for (const [outer, inner, expected] of [
    ['7:7:', '7:7:', true],
    ['9:9:', '7:7:', true],
    ['7:7:', '9:9:', false],
    ['5:9:5', '5:9:5', true],
    ['5:9:5', '5:9:5,6', true],
    ['5:9:5,6', '5:9:5', false],
    ['8:9:8', '7:7:', true],
    ['6:9:6', '7:7:', false],
  ] as const) {
    t.equal(covers(outer, inner), expected, `${outer} of ${inner}`)
  }
  t.end()
})

const keys = (text: string): Buffer => Buffer.from(text)
const anchored = (n: number, snapshot: string, at: string): Ident =>
  identAt(at, { anchor: `nonce-${n}`, anchor_snapshot: snapshot })

t.test('an anchor is adopted only where it covers what was held when it was asked for', (t) => {
  const history = new History('anchors')
  t.equal(history.wanted(), undefined, 'nothing is held yet')
  history.sent(1)
  history.show(identAt('5:9:5'), 1)
  const nonce = history.wanted()
  t.match(nonce, /^[0-9a-f-]{36}$/)
  t.not(history.wanted(), nonce, 'a nonce of its own each time')
  history.sent(2)
  t.ok(history.wanted(), 'also while a tick is under way')
  history.show(anchored(1, '6:8:6', '9:9:'), 2)
  t.same(history.nonces, [], 'it is older')
  history.sent(3)
  history.show(anchored(2, '9:9:', '9:9:'), 3)
  t.same(history.nonces, ['nonce-2'])
  t.equal(history.wanted(), undefined, 'nothing has changed since')
  history.touchProvisionally(1, keys('a'))
  history.sent(4)
  t.ok(history.wanted())
  history.loseSession()
  history.show(anchored(2, '9:9:', '9:9:'), 4)
  history.touch(1, keys('a'))
  t.equal(history.wanted(), undefined, 'while the rows of a tick are written')
  history.show(anchored(2, '9:9:', '12:12:'), 4)
  t.ok(history.wanted())
  history.loseSession()
  t.equal(history.wanted(), undefined)
  history.sent(5)
  history.show(anchored(3, '20:20:', '20:20:'), 5)
  t.same(history.nonces, ['nonce-2'], 'it was asked for in another session')
  t.end()
})

t.test('after a lost session ticks go on from the newest anchor that the database has', (t) => {
  const history = new History('anchors')
  let tick = 0
  const step = (n: number | undefined, ...rows: [number, string][]): void => {
    history.sent(++tick)
    for (const [id, text] of rows) history.touch(id, keys(text))
    const at = `${tick * 10}:${tick * 10}:`
    history.show(n === undefined ? identAt(at) : anchored(n, at, at), tick)
    history.wanted()
  }
  step(undefined)
  step(1, [1, 'a'])
  step(1, [2, 'b'], [3, 'c'])
  step(2, [3, 'd'])
  step(2, [2, 'b'], [4, 'e'])
  const ids = (held: string[]): unknown => {
    const from = history.resume(new Set(held))
    return (
      from && [from.cursor.snapshot, ...from.again.map(({ id, keys }) => `${id} ${keys.join()}`)]
    )
  }
  t.same(ids(['nonce-1', 'nonce-2', 'nonce-9']), ['40:40:', '3 c,d', '2 b', '4 e'])
  t.same(ids(['nonce-1']), ['20:20:', '1 a', '3 c,d', '2 b', '4 e'], 'all since the older one')
  t.same(history.nonces, ['nonce-1'], 'the younger one is of another history')
  t.equal(ids([]), undefined)
  t.end()
})

t.test('what is too much to remember leaves no anchor; a file keeps its own', (t) => {
  const history = new History('anchors')
  history.sent(1)
  history.show(identAt('9:9:'), 1)
  history.wanted()
  history.sent(2)
  history.show(anchored(1, '10:10:', '10:10:'), 2)
  t.equal(history.pin()?.nonce, 'nonce-1')
  history.sent(3)
  history.touch(7, keys('a'))
  for (let n = 2; n < 12; n++) {
    history.show(anchored(n, `${n * 10}:${n * 10}:`, `${n * 10}:${n * 10}:`), n + 1)
    history.sent(n + 2)
    history.touch(n, keys('b'))
    history.show(anchored(n, `${n * 10}:${n * 10}:`, `${n * 10}:${n * 10}:`), n + 2)
    history.wanted()
  }
  t.ok(history.nonces.length <= 4, `${history.nonces.length} anchors`)
  t.equal(history.nonces[0], 'nonce-1', 'the pinned one stays')
  t.same(
    history.unpin()?.map(({ id }) => id),
    [7, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11].filter((id, i, all) => all.lastIndexOf(id) === i),
  )
  history.pin()
  history.sent(100)
  for (let id = 0; id < 50_001; id++) history.touch(id, keys('c'))
  t.same(history.nonces, [])
  t.equal(history.unpin(), undefined, 'the file is of no use')
  history.touch(1, keys('d'))
  history.show(identAt('999:999:'), 100)
  t.ok(history.wanted(), 'the next one is asked for at once')
  history.sent(101)
  history.touch(2, keys('e'))
  history.show(anchored(99, '999:999:', '1000:1000:'), 101)
  const from = history.resume(new Set(['nonce-99']))
  t.same(
    from?.again.map(({ id }) => id),
    [2],
  )
  t.end()
})
