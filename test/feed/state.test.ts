/** The table of the feed's states: every cell, and random walks against a model of what the acts make and end. */
import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import type { Cursor, Ident } from '../../src/feed/cursor.ts'
import {
  type Acts,
  type Event,
  type Events,
  type State,
  StateMachine,
  table,
  transitionOf,
} from '../../src/feed/state.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const states = Object.keys(table) as State[]
const events = Object.keys(table.connecting) as Event[]

const ident: Ident = {
  ...{ snapshot: '7:7:', tomb_floor: '0', generation: 'g', schema_version: 1, channel: 'c' },
  ...{ system_id: '1', relation: '2', standby: false, clock_ms: 0, anchor: null },
  ...{ anchor_snapshot: null, pointers: [], triggers: [], mac_key: 1, queue_usage: 0 },
}
const newCursor = (): Ident => ({ ...ident })
const dataOf: { readonly [E in Event]: () => Events[E] } = {
  'session opened': () => ident,
  'session lost': () => undefined,
  'gap found': () => 'a gap',
  'difference found': () => 'a difference',
  'tick applied': () => ({ cursor: newCursor(), number: 1, sentAtUs: 0, clockOffsetMs: 0 }),
  'tick over the cap': () => undefined,
  'bulk done': newCursor,
  'bulk failed': () => undefined,
  closed: () => undefined,
}
const send = <E extends Event>(machine: StateMachine, event: E): Promise<void> =>
  machine.on(event, dataOf[event]())

/** Acts that are all done by this, which is told their name. */
function acts(act: (name: keyof Acts) => Promise<void> | void): Acts {
  return {
    resume: async () => act('resume'),
    loseSession: () => act('loseSession') as undefined,
    startLoad: async () => act('startLoad'),
    startCatchUp: async () => act('startCatchUp'),
    moveCursor: () => act('moveCursor') as undefined,
    moveBacklog: () => act('moveBacklog') as undefined,
    proveFreshness: () => act('proveFreshness') as undefined,
    finishBacklog: async () => act('finishBacklog'),
    dropBacklog: () => act('dropBacklog') as undefined,
    release: () => act('release') as undefined,
  }
}

/** The shortest ways from connecting to each state. */
const ways = new Map<State, readonly Event[]>([['connecting', []]])
for (const [from, way] of ways) {
  for (const event of events) {
    const transition = table[from][event]
    if (typeof transition === 'string' || ways.has(transition.to)) continue
    ways.set(transition.to, [...way, event])
  }
}

async function machineIn(state: State, its: Acts): Promise<StateMachine> {
  const machine = new StateMachine(its)
  for (const event of ways.get(state)!) await send(machine, event)
  return machine
}

t.test('every state can be reached, and closed from each of them', async (t) => {
  t.same([...ways.keys()].sort(), [...states].sort())
  for (const state of states) {
    const machine = await machineIn(
      state,
      acts(() => {}),
    )
    t.equal(machine.state, state)
    await send(machine, 'closed')
    t.equal(machine.state, 'closed')
  }
})

t.test('an event that cannot happen in a state is ERR_INTERNAL with both names', async (t) => {
  let cells = 0
  for (const state of states) {
    for (const event of events) {
      if (table[state][event] !== 'impossible') {
        transitionOf(state, event)
        continue
      }
      cells++
      const done: string[] = []
      const machine = await machineIn(
        state,
        acts((name) => {
          done.push(name)
        }),
      )
      const before = [...done]
      await t.rejects(send(machine, event), {
        code: 'ERR_INTERNAL',
        message: `the event "${event}" cannot happen while the feed is ${state}`,
      })
      t.equal(machine.state, state, 'the state stays')
      t.same(done, before, 'no act was done')
    }
  }
  t.ok(cells > 20, `${cells} cells`)
})

t.test('a feed that is closed stays closed, even while an act is under way', async (t) => {
  for (const state of states) {
    for (const event of events) {
      if (event === 'closed' || typeof table[state][event] === 'string') continue
      const done: string[] = []
      let holding = false
      let goOn: () => void = () => {}
      const machine = await machineIn(
        state,
        acts((name) => {
          done.push(name)
          if (!holding || name === 'release') return
          return new Promise<void>((resolve) => {
            goOn = resolve
          })
        }),
      )
      holding = true
      const before = done.length
      const under = send(machine, event)
      await send(machine, 'closed')
      goOn()
      await under
      const what = `${event} in ${state}`
      t.equal(machine.state, 'closed', what)
      t.ok(done.length <= before + 2, `${what}: ${done} ends without another act`)
      for (const late of events) await send(machine, late)
      t.equal(machine.state, 'closed', what)
      t.equal(done.filter((name) => name === 'release').length, 1, 'released once')
    }
  }
})

class Refused extends Error {}

/** What the acts make and end, without a database. Each may fail to open a second session, find a gap, or take time. */
class World {
  readonly machine: StateMachine
  readonly #random: () => number
  readonly faults: string[] = []
  cursor: Cursor | undefined
  backlog: 'loading' | 'catching-up' | undefined

  constructor(random: () => number) {
    this.#random = random
    this.machine = new StateMachine({
      resume: async () => {
        if (this.backlog !== undefined) return
        if (this.#random() < 0.5) this.cursor = newCursor()
        else await this.machine.on('gap found', 'no anchor is held')
      },
      loseSession: () => {
        this.cursor = undefined
      },
      startLoad: async () => {
        this.backlog = undefined
        this.cursor = undefined
        await this.#openBulk('loading')
      },
      startCatchUp: async () => {
        if (this.cursor === undefined) this.faults.push('a catch-up has no cursor')
        if (this.backlog !== undefined) this.faults.push('a second backlog')
        if (this.#random() < 0.2) await this.machine.on('gap found', 'tombstones were purged')
        else await this.#openBulk('catching-up')
      },
      moveCursor: ({ cursor }) => {
        this.cursor = cursor
      },
      moveBacklog: () => {
        if (this.backlog === undefined) this.faults.push('no backlog to move')
      },
      proveFreshness: () => {
        if (this.machine.state !== 'following') this.faults.push(`fresh in ${this.machine.state}`)
      },
      finishBacklog: async (cursor) => {
        if (this.backlog === undefined) this.faults.push('no backlog to finish')
        await this.#time()
        this.cursor = cursor
        this.backlog = undefined
      },
      dropBacklog: () => {
        this.backlog = undefined
      },
      release: () => {
        this.backlog = undefined
      },
    })
  }

  async #openBulk(kind: 'loading' | 'catching-up'): Promise<void> {
    await this.#time()
    if (this.#random() < 0.2) {
      await this.machine.on('bulk failed', undefined)
      throw new Refused()
    }
    if (!this.machine.closed) this.backlog = kind
  }

  /** The gate may be closed meanwhile. */
  async #time(): Promise<void> {
    await new Promise(setImmediate)
    if (this.#random() < 0.02) await this.machine.on('closed', undefined)
  }

  /** What the invariants of state.ts say of a state. */
  check(event: Event, was: { state: State; cursor: Cursor | undefined; backlog: unknown }): void {
    const { state } = this.machine
    const fault = (text: string): void => {
      this.faults.push(`${was.state}, ${event}, ${state}: ${text}`)
    }
    const kind = state.replace('-alone', '')
    const expected = kind === 'loading' || kind === 'catching-up' ? kind : undefined
    if (this.backlog !== expected) fault(`1: the backlog is ${this.backlog}`)
    if (kind === 'loading' && this.cursor !== undefined) fault('2: a load has a cursor')
    const needsCursor = ['resuming', 'following'].includes(kind)
    if (needsCursor && this.cursor === undefined) fault('2: there is no cursor')
    const byTick = event === 'tick applied' || event === 'bulk done'
    if (state === 'following' && was.state !== 'following' && !byTick) fault('4: not by a tick')
    if (event === 'session lost' && this.backlog !== was.backlog)
      fault('5: the lost session took the backlog away')
    if (event === 'session lost' && state !== 'closed' && this.cursor !== undefined)
      fault('5: the cursor outlived it')
    if (was.state === 'closed' && state !== 'closed') fault('7: it was closed')
  }
}

t.test('any walk through the table keeps the invariants', async (t) => {
  const seed = seedOf()
  t.comment(`SEED=${seed}`)
  const random = seeded(seed)
  const cells = new Set<string>()
  for (let walk = 0; walk < 1000; walk++) {
    const world = new World(random)
    const { machine } = world
    for (let step = 0; step < 60; step++) {
      const possible = events.filter((event) => {
        // Else most walks would be over before they have begun.
        if (event === 'closed') return random() < 0.15
        return table[machine.state][event] !== 'impossible'
      })
      const event = possible[Math.floor(random() * possible.length)]!
      const was = { state: machine.state, cursor: world.cursor, backlog: world.backlog }
      cells.add(`${was.state} ${event}`)
      let thrown: unknown
      await send(machine, event).catch((error: unknown) => {
        thrown = error
      })
      if (thrown !== undefined) {
        if (!(thrown instanceof Refused)) throw thrown
        await send(machine, 'session lost')
      }
      world.check(thrown === undefined ? event : 'session opened', was)
      if (world.faults.length > 0) break
    }
    t.same(world.faults, [])
    if (world.faults.length > 0) return
  }
  const all = states.flatMap((state) =>
    events
      .filter((event) => table[state][event] !== 'impossible')
      .map((event) => `${state} ${event}`),
  )
  t.same(
    all.filter((cell) => !cells.has(cell)),
    [],
    'every cell was tried',
  )
})

t.test('each test that an invariant names is there', async (t) => {
  const [head = ''] = readFileSync('src/feed/state.ts', 'utf8').split('*/')
  const text = readdirSync('test/feed')
    .map((file) => readFileSync(`test/feed/${file}`, 'utf8'))
    .join('\n')
  const named = [...head.replace(/\n \*\s*/g, ' ').matchAll(/"([^"]+)"/g)].map(([, name]) => name!)
  t.ok(named.length >= 8, `${named.length} tests`)
  for (const name of named) t.ok(text.includes(`t.test('${name}'`), name)
  const invariants = [...head.matchAll(/^ \*\s+(\d+)\. /gm)].map(([, number]) => Number(number))
  t.same(
    invariants,
    invariants.map((_, i) => i + 1),
    'numbered in order',
  )
})
