/** What issuers without keys do to a gate's readiness; a real gate says it in ports.test.ts. */
import t from 'tap'
import { type Readiness, readinessOf } from '../../src/gate/readiness.ts'

type Rooms = Parameters<typeof readinessOf>[0]

/** @param keys How many keys each issuer has. */
const roomsWith = (keys: readonly number[], waiting = false): Rooms =>
  ({
    workers: { waiting, allListening: !waiting, allActive: () => true },
    ledger: { loaded: true, broken: false, ageMs: () => 0 },
    feed: { status: () => ({ code: null, comparisons_overdue: false }) },
    fleet: { missesCanary: false },
    keys: { status: () => keys.map((keys, i) => ({ issuer: `https://${i}`, keys, code: null })) },
  }) as unknown as Rooms

const state = (tokensOnly: boolean): Readiness => ({
  draining: false,
  tokensOnly,
  active: { generation: 1 } as Readiness['active'],
  maxStalenessMs: 5000,
})

t.test(
  'an issuer without keys takes the gate away only where no request can be let in',
  async (t) => {
    const zero = 'no keys of the issuer https://0'
    const one = 'no keys of the issuer https://1'
    const cases: [keys: number[], tokensOnly: boolean, reasons: string[], warnings: string[]][] = [
    [[], true, [], []],
    [[1], true, [], []],
    [[0], true, [zero], []],
    [[0], false, [], [zero]],
    [[0, 1], true, [], [zero]],
    [[1, 0], false, [], [one]],
    [[0, 0], true, [zero, one], []],
    [[0, 0], false, [], [zero, one]],
  ] // biome-ignore format: a table
    for (const [keys, tokensOnly, reasons, warnings] of cases) {
      const ready = reasons.length === 0
      t.same(readinessOf(roomsWith(keys), state(tokensOnly)), { ready, reasons, warnings })
    }
    const waits = 'waiting to take over the port until the gate is otherwise ready'
    t.same(readinessOf(roomsWith([0, 1], true), state(false)), {
      ready: false,
      reasons: [zero, waits],
      warnings: [],
    })
  },
)
