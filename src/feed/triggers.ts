/**
 * What the triggers of the table say about a tick. A gate sees only what the triggers have stamped, prepared and entombed,
 * so the state of each one travels with every tick: for which sessions it fires, and the transaction that has set that.
 * No I/O.
 *
 * Invariant: freshness is proved only if the triggers were on for every change that is visible in the tick, or if
 * everything was read after they were on again.
 *
 *  1. Turning a trigger off or on needs a lock that waits for all writers of the table, and makes them wait. So a change
 *     that was made while a trigger was off committed after the transaction that turned it off, and before the one
 *     that turned it on again (or within one of them).
 *  2. Each of the two gives the trigger's row in the catalog another xmin, also when both are one transaction and all is
 *     as it was before. The catalog is read in the snapshot of the tick.
 *  3. So a tick that shows such a change shows a trigger that is off, or another xmin than the cursor has: while one is off
 *     nothing is proved (`offIn`), and another xmin is a gap (`alteredSince`), after which everything is read anew. A
 *     second session carries the triggers of its own snapshot, a snapshot file those of its cursor.
 *
 * What a load cannot find is said, not mended: rows whose keys were not computed anew while a_prepare was off, and, while a
 * trigger does not fire for replicated changes, those changes.
 */
import type { Log } from '../domain/log.ts'
import { GateError } from '../errors.ts'

/** The triggers that the feed needs, with the value of `tgenabled` that enable_triggers() gives them. */
const wanted: ReadonlyMap<string, string> = new Map([
  ['a_prepare', 'A'],
  ['a_stamp', 'A'],
  ['c_announce_delete', 'A'],
  ['c_announce_insert', 'A'],
  ['c_announce_update', 'A'],
  ['c_entomb', 'R'],
  ['d_renew', 'A'],
])

/** The part of the meta row of an answer that is looked at here. */
interface Told {
  /** Name, `tgenabled` and xmin of each trigger, in the order of the names. */
  readonly triggers: readonly string[]
}

/**
 * @returns why the changes since the cursor may not all be found; undefined when the triggers are as they were. Also while
 * one is off: then everything is read once they are on.
 */
export function alteredSince(cursor: Told, ident: Told): string | undefined {
  if (same(cursor, ident) || offIn(ident).length > 0) return undefined
  return 'triggers of the table of revocations were turned off or on, or made anew'
}

function same(one: Told, other: Told): boolean {
  return one.triggers.join() === other.triggers.join()
}

/** Names of the triggers that do not fire for the sessions of writers. */
function offIn(told: Told): string[] {
  const enabled = enabledIn(told)
  return [...wanted].flatMap(([name, as]) =>
    as === 'A' && !/^[AO]$/.test(enabled.get(name) ?? '') ? [name] : [],
  )
}

/** Names of the triggers that do not fire for replicated changes. */
function deafIn(told: Told): string[] {
  const enabled = enabledIn(told)
  return [...wanted.keys()].filter((name) => !/^[AR]$/.test(enabled.get(name) ?? ''))
}

function enabledIn({ triggers }: Told): ReadonlyMap<string, string> {
  return new Map(triggers.map((each) => each.split(' ', 2) as [name: string, enabled: string]))
}

const hint =
  'as the owner of the table, run `SELECT dropgate.reset_feed()`: it turns the triggers on and prepares every row anew'

/** Says what is wrong with the triggers, once each time that it changes. */
export class Triggers {
  readonly #log: Log
  #last: Told | undefined
  #off = false
  #wrong: readonly string[] = []
  #problem: GateError | undefined

  constructor(log: Log) {
    this.#log = log
  }

  /** While true, no tick proves freshness. */
  get off(): boolean {
    return this.#off
  }

  /** Names of the triggers that do not fire for all the sessions that they are for. */
  get wrong(): readonly string[] {
    return this.#wrong
  }

  /** What that means; undefined when none is wrong. */
  get problem(): GateError | undefined {
    return this.#problem
  }

  /** To be called with each tick, before anything is claimed because of it. */
  note(ident: Told): void {
    const last = this.#last
    if (last !== undefined && same(last, ident)) return
    this.#last = ident
    const off = offIn(ident)
    this.#off = off.length > 0
    this.#wrong = this.#off ? off : deafIn(ident)
    const names = this.#wrong.join(', ')
    this.#problem =
      names === ''
        ? undefined
        : new GateError(
            'ERR_DATABASE_SCHEMA',
            this.#off
              ? `triggers on the table of revocations are off: ${names}`
              : `triggers on the table of revocations do not fire for replicated changes: ${names}`,
            { hint },
          )
    if (this.#problem !== undefined) {
      const { code, message } = this.#problem
      this.#log.error({ code, triggers: this.#wrong, hint }, message)
    } else if (last !== undefined) {
      this.#log.warn({ hint }, wereAltered)
    }
  }
}

const wereAltered =
  'triggers on the table of revocations were turned off or on, or made anew: rows that were changed while a_prepare was off may not have the keys of what they name'
