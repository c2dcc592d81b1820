/**
 * The feed's states, and what each event does in each of them. `table` is complete by type: tsc refuses a state or an
 * event with a cell missing. `StateMachine` is the only place that changes the state; feed.ts supplies the acts. No I/O.
 *
 *   connecting         no session, or one that is being closed. The loaded rows stay in use, and their age grows.
 *   resuming           a session is open, and no tick has been answered on it yet.
 *   loading            everything is read on a second session. Ticks go on from that session's snapshot; their
 *                      rows deny at once; freshness is proved only after both are joined.
 *   catching-up        the same for what the cursor has not seen, when that is more than a tick may carry.
 *   loading-alone      the session of the ticks is lost; the second session goes on with its load.
 *   catching-up-alone  the same for a catch-up.
 *   following          ticks from the cursor: every `tick`, and at once when a notification announces a change.
 *   closed
 *
 * Invariants. Each names what enforces it; then the tests that try to break it. The test "any walk through the table
 * keeps the invariants" tries all of them.
 *
 *  1. A backlog (the second session and what ticks bring beside it) exists in the two loading and the two catching-up
 *     states and in no other, and there is never more than one. Enforced by: each cell that enters or leaves these states
 *     names the act that makes or ends it; `startLoad` ends the former one. Test: "a TRUNCATE during a load leaves no row behind".
 *  2. A load has no cursor, so the gate vouches for no row during it; resuming and following have one.
 *     Enforced by: `startLoad` drops the cursor, `resume` finds one or a gap, `finishBacklog` sets it.
 *     Test: "a load that fails while the ledger serves puts no file in its place".
 *  3. Freshness is proved in following only. Enforced by: `proveFreshness` is in cells that lead there, after the state
 *     is entered. Test: "a connection that falls silent is given up and freshness ages meanwhile".
 *  4. Only a tick leads to following: a tick with no backlog, or one that was sent after the second session was done.
 *     Enforced by: the cells of `tick applied` and `bulk done`. Test: "a restart reads the file and what has changed since".
 *  5. A lost session takes away the cursor and not the backlog: history.ts says where the next one goes on. Enforced by:
 *     `loseSession` is the only act in the cells of `session lost`. Test: "fifteen sessions killed in a row lose no row".
 *  6. A backlog that failed takes away no anchor. Enforced by: `dropBacklog` is the only act of `bulk failed`.
 *     Test: "a load during which the server restarts is completed".
 *  7. Nothing begins once the feed is closed: an act that is under way ends without effect. Enforced by: the row of closed, and
 *     `StateMachine.on` looks again after an act that took time. Test: "a feed that is closed stays closed, even while an act is under way".
 *  8. An event that cannot happen in a state changes nothing and is an error. Enforced by: `transitionOf`.
 *     Test: "an event that cannot happen in a state is ERR_INTERNAL with both names".
 */
import { GateError } from '../errors.ts'
import type { Ident } from './cursor.ts'

export type State =
  | 'connecting'
  | 'resuming'
  | 'loading'
  | 'loading-alone'
  | 'catching-up'
  | 'catching-up-alone'
  | 'following'
  | 'closed'

/** Names of the states in `status`: a session on which no tick was answered yet counts as connecting. */
export const shownAs = {
  connecting: 'connecting',
  resuming: 'connecting',
  loading: 'loading',
  'loading-alone': 'connecting',
  'catching-up': 'catching-up',
  'catching-up-alone': 'connecting',
  following: 'following',
  closed: 'closed',
} as const satisfies Record<State, string>

/** A tick that was answered and whose rows are in the ledger. */
export interface AppliedTick {
  readonly cursor: Ident
  readonly number: number
  /** Monotonic time at which the tick was sent: freshness counts from here. */
  readonly sentAtUs: number
  /** PostgreSQL's clock minus this machine's clock. */
  readonly clockOffsetMs: number
}

/** Each event with its data. */
export interface Events {
  /** A session is open and LISTEN is committed. Data: the database that answers. */
  readonly 'session opened': Ident
  readonly 'session lost': undefined
  /** The changes since the cursor cannot be found. Data: the reason. */
  readonly 'gap found': string
  /** A comparison found that the ledger differs from the table. Data: the sentence for the log. */
  readonly 'difference found': string
  readonly 'tick applied': AppliedTick
  /** The tick found more changes than it may carry; none of them was applied. */
  readonly 'tick over the cap': undefined
  /**
   * A tick that was sent after the second session had finished is in the ledger: both together are all that this cursor
   * shows.
   */
  readonly 'bulk done': Ident
  readonly 'bulk failed': undefined
  readonly closed: undefined
}
export type Event = keyof Events

/** The acts that transitions run. */
export interface Acts {
  /** Restores the snapshot file when no revocations are loaded; goes on from an anchor, or finds a gap. */
  readonly resume: (ident: Ident) => Promise<void>
  /** Drops the cursor: it was one of that session only. */
  readonly loseSession: () => void
  /** Drops the cursor and the backlog, and begins a full load. */
  readonly startLoad: (why: string) => Promise<void>
  /** Begins to read what the cursor has not seen. */
  readonly startCatchUp: () => Promise<void>
  readonly moveCursor: (tick: AppliedTick) => void
  /** Moves the position of the ticks beside the second session. */
  readonly moveBacklog: (tick: AppliedTick) => void
  readonly proveFreshness: (tick: AppliedTick) => void
  /**
   * Joins the rows of the second session with those that ticks brought beside it; the new cursor is that of the tick.
   */
  readonly finishBacklog: (cursor: Ident) => Promise<void>
  readonly dropBacklog: () => void
  /** Closes everything that is open. */
  readonly release: () => void
}

/** The acts that take the data of this event. */
type ActOn<E extends Event> = {
  [A in keyof Acts]: Acts[A] extends (data: Events[E]) => unknown ? A : never
}[keyof Acts]

interface Move<E extends Event> {
  /** Runs before the state changes, since it makes true what the new state claims. */
  readonly before?: ActOn<E>
  readonly to: State
  /** Runs in the new state. */
  readonly after?: ActOn<E>
}

export type Transition<E extends Event> = 'impossible' | 'ignored' | Move<E>

const load = { to: 'loading', after: 'startLoad' } as const
const catchUp = { to: 'catching-up', after: 'startCatchUp' } as const
const follow = { before: 'moveCursor', to: 'following', after: 'proveFreshness' } as const
const meet = { before: 'finishBacklog', to: 'following' } as const
const lose = { to: 'connecting', after: 'loseSession' } as const
const giveUp = { to: 'connecting', after: 'dropBacklog' } as const
const close = { to: 'closed', after: 'release' } as const

export const table: { readonly [S in State]: { readonly [E in Event]: Transition<E> } } = {
  connecting: {
    'session opened': { to: 'resuming', after: 'resume' },
    'session lost': lose,
    'gap found': 'impossible',
    'difference found': 'impossible',
    'tick applied': 'impossible',
    'tick over the cap': 'impossible',
    'bulk done': 'impossible',
    'bulk failed': 'impossible',
    closed: close,
  },
  resuming: {
    'session opened': 'impossible',
    'session lost': lose,
    'gap found': load,
    'difference found': 'impossible',
    'tick applied': follow,
    'tick over the cap': catchUp,
    'bulk done': 'impossible',
    'bulk failed': 'impossible',
    closed: close,
  },
  loading: {
    'session opened': 'impossible',
    'session lost': { to: 'loading-alone', after: 'loseSession' },
    'gap found': load,
    'difference found': load,
    'tick applied': { before: 'moveBacklog', to: 'loading' },
    'tick over the cap': { to: 'loading' },
    'bulk done': meet,
    'bulk failed': giveUp,
    closed: close,
  },
  'loading-alone': {
    'session opened': { to: 'loading', after: 'resume' },
    'session lost': { to: 'loading-alone' },
    'gap found': 'impossible',
    'difference found': 'impossible',
    'tick applied': 'impossible',
    'tick over the cap': 'impossible',
    'bulk done': 'impossible',
    'bulk failed': 'impossible',
    closed: close,
  },
  'catching-up': {
    'session opened': 'impossible',
    'session lost': { to: 'catching-up-alone', after: 'loseSession' },
    'gap found': load,
    'difference found': load,
    'tick applied': { before: 'moveBacklog', to: 'catching-up' },
    'tick over the cap': { to: 'catching-up' },
    'bulk done': meet,
    'bulk failed': giveUp,
    closed: close,
  },
  'catching-up-alone': {
    'session opened': { to: 'catching-up', after: 'resume' },
    'session lost': { to: 'catching-up-alone' },
    'gap found': 'impossible',
    'difference found': 'impossible',
    'tick applied': 'impossible',
    'tick over the cap': 'impossible',
    'bulk done': 'impossible',
    'bulk failed': 'impossible',
    closed: close,
  },
  following: {
    'session opened': 'impossible',
    'session lost': lose,
    'gap found': load,
    'difference found': load,
    'tick applied': follow,
    'tick over the cap': catchUp,
    'bulk done': 'impossible',
    'bulk failed': 'impossible',
    closed: close,
  },
  closed: {
    'session opened': 'ignored',
    'session lost': 'ignored',
    'gap found': 'ignored',
    'difference found': 'ignored',
    'tick applied': 'ignored',
    'tick over the cap': 'ignored',
    'bulk done': 'ignored',
    'bulk failed': 'ignored',
    closed: 'ignored',
  },
}

/** @throws GateError ERR_INTERNAL for an event that cannot happen in this state */
export function transitionOf<E extends Event>(state: State, event: E): 'ignored' | Move<E> {
  const transition: Transition<E> = table[state][event]
  if (transition !== 'impossible') return transition
  throw new GateError(
    'ERR_INTERNAL',
    `the event "${event}" cannot happen while the feed is ${state}`,
    {
      hint: 'report this as a bug of dropgate; the feed reconnects and continues from its cursor',
    },
  )
}

/** Events come one after the other from the loop of the feed; only `closed` may come during an act. */
export class StateMachine {
  readonly #acts: Acts
  #state: State = 'connecting'

  constructor(acts: Acts) {
    this.#acts = acts
  }

  get state(): State {
    return this.#state
  }

  /** Resolves when the acts of the transition are done. @throws the errors of the acts, and those of `transitionOf` */
  async on<E extends Event>(event: E, data: Events[E]): Promise<void> {
    const transition = transitionOf(this.#state, event)
    if (transition === 'ignored') return
    const { before, to, after } = transition
    if (before !== undefined) await this.#do(before, data)
    if (this.closed) return
    this.#state = to
    if (after !== undefined) await this.#do(after, data)
  }

  get closed(): boolean {
    return this.#state === 'closed'
  }

  #do<E extends Event>(act: ActOn<E>, data: Events[E]): Promise<void> | void {
    // The type `ActOn` ensures that this act takes this data; the compiler cannot follow it through the look-up.
    return (this.#acts[act] as (data: Events[E]) => Promise<void> | void)(data)
  }
}
