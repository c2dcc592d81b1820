/**
 * Room: response. In: exchanges from their registration to their last byte. Out: the exchanges that an event
 * concerns. Never does: decide.
 *
 * An exchange is registered *before* its look-up in the ledger, so a row that comes after the look-up finds the
 * exchange here.
 *
 * A new exchange is in the set of young ones until the next sweep. Most are over by then and cost one entry in one
 * set. The others are filed by caller, and each caller under all its revocation keys, so that a cut costs only what
 * it ends. Before any look-up by key, the young exchanges are filed too, so that none is missed.
 */
import type { LiveExchange } from '../domain/exchange.ts'
import { type Linked, LinkedList } from '../domain/linked.ts'
import type { Principal } from '../domain/principal.ts'
import { everyoneKey, keyBytes, wordsOfKeys } from '../domain/revocation.ts'

/** Expiry is checked in steps of this many ms. An exchange is cut late by at most one step, never early. */
const expiryStepMs = 50

/** All open exchanges with one token; the caller `undefined` stands for all exchanges without a token. */
interface Caller<E> {
  readonly principal: Principal | undefined
  /** Keys under which this caller is filed. Its principal may have gained further keys since. */
  readonly keys: Uint32Array
  readonly open: Set<E>
}

interface Filing<E> {
  readonly caller: Caller<E>
  /** Step at which the exchange expires, −1 if it never does. */
  readonly step: number
}

const keysOfAnonymous = wordsOfKeys([everyoneKey])

export class LiveRegistry<E extends LiveExchange & Linked<E>> {
  readonly #young = new LinkedList<E>()
  readonly #filed = new Map<E, Filing<E>>()
  readonly #callers = new Map<Principal | undefined, Caller<E>>()
  /** Callers by key. A key with one caller, the usual case, needs no set. */
  readonly #byKey = new Map<number, Caller<E> | Set<Caller<E>>>()
  readonly #byExpiry = new Map<number, Set<E>>()
  /** All steps up to this one have been checked for expiry. */
  #expiredTo = Math.floor(Date.now() / expiryStepMs)
  #added = 0

  get size(): number {
    return this.#young.size + this.#filed.size
  }

  add(exchange: E): void {
    exchange.seq = ++this.#added
    this.#young.add(exchange)
  }

  /** Removes an exchange; calling it again does nothing. */
  remove(exchange: E): void {
    if (!this.#young.delete(exchange)) this.#unfile(exchange)
  }

  /** Files young exchanges that started before `startedUs`; all young exchanges by default. */
  settle(startedUs = Number.POSITIVE_INFINITY): void {
    for (const exchange of this.#young) {
      if (exchange.startedAtUs > startedUs) break
      this.#young.delete(exchange)
      this.#file(exchange)
    }
  }

  /**
   * Returns a copy of all open exchanges, oldest first. It is a copy because exchanges may end while the caller
   * visits them.
   */
  all(): E[] {
    return [...this.#filed.keys(), ...this.#young]
  }

  /**
   * Returns the exchanges that rows with these keys may concern; the caller must then ask the ledger.
   * @param keys `keyBytes` for each row.
   */
  concerned(keys: Uint8Array): E[] {
    this.settle()
    const callers = new Set<Caller<E>>()
    for (let at = 0; at < keys.length; at += keyBytes) {
      const found = this.#byKey.get(shortOfBytes(keys, at + 1))
      if (found instanceof Set) for (const each of found) callers.add(each)
      else if (found !== undefined) callers.add(found)
    }
    return [...callers].flatMap(({ open }) => [...open])
  }

  /** Returns the exchanges that have expired by now. Each is returned once, even if it stays open. */
  expired(nowMs: number): E[] {
    const now = Math.floor(nowMs / expiryStepMs)
    // The system clock was set back: refile all exchanges, whose steps are now in the future.
    if (now < this.#expiredTo) this.#refile(now)
    const found: E[] = []
    // After a change of the system clock there may be more steps to check than tokens with an expiry.
    const few = now - this.#expiredTo <= this.#byExpiry.size + 100
    if (!few) for (const [step, due] of this.#byExpiry) if (step <= now) found.push(...due)
    while (few && this.#expiredTo < now)
      found.push(...(this.#byExpiry.get(++this.#expiredTo) ?? []))
    this.#expiredTo = now
    return found
  }

  /**
   * Returns one page of the open exchanges, in order of registration.
   * @returns `last` is the start of the next page, undefined after the last page.
   */
  list(
    wanted: (exchange: E) => boolean,
    after: number,
    limit: number,
  ): { found: E[]; last: number | undefined } {
    const found: E[] = []
    for (const each of this.all()) {
      if (each.seq <= after || !wanted(each)) continue
      if (found.length === limit) return { found, last: found.at(-1)!.seq }
      found.push(each)
    }
    return { found, last: undefined }
  }

  find(id: string): E | undefined {
    for (const each of this.#filed.keys()) if (each.id === id) return each
    for (const each of this.#young) if (each.id === id) return each
    return undefined
  }

  #file(exchange: E): void {
    const { principal, expiresAtMs } = exchange
    let caller = this.#callers.get(principal)
    if (caller === undefined) {
      caller = { principal, keys: principal?.keys ?? keysOfAnonymous, open: new Set() }
      this.#callers.set(principal, caller)
      for (let k = 0; k < caller.keys.length; k += 4)
        this.#fileUnder(shortOf(caller.keys, k), caller)
    }
    caller.open.add(exchange)
    const step = Number.isFinite(expiresAtMs) ? this.#fileExpiry(exchange) : -1
    this.#filed.set(exchange, { caller, step })
  }

  /**
   * Files an exchange by its expiry. @returns Its step. If it expired before it was filed, it is due at the next
   * check.
   */
  #fileExpiry(exchange: E): number {
    const step = Math.max(Math.ceil(exchange.expiresAtMs / expiryStepMs), this.#expiredTo + 1)
    const due = this.#byExpiry.get(step)
    if (due === undefined) this.#byExpiry.set(step, new Set([exchange]))
    else due.add(exchange)
    return step
  }

  #refile(now: number): void {
    this.#expiredTo = now
    this.#byExpiry.clear()
    for (const [exchange, { caller, step }] of this.#filed)
      if (step !== -1) this.#filed.set(exchange, { caller, step: this.#fileExpiry(exchange) })
  }

  #fileUnder(key: number, caller: Caller<E>): void {
    const found = this.#byKey.get(key)
    if (found === undefined) this.#byKey.set(key, caller)
    else if (found instanceof Set) found.add(caller)
    else if (found !== caller) this.#byKey.set(key, new Set([found, caller]))
  }

  #unfile(exchange: E): void {
    const place = this.#filed.get(exchange)
    if (place === undefined) return
    const { caller, step } = place
    this.#filed.delete(exchange)
    if (step !== -1) {
      const due = this.#byExpiry.get(step)
      if (due?.delete(exchange) && due.size === 0) this.#byExpiry.delete(step)
    }
    caller.open.delete(exchange)
    if (caller.open.size > 0) return
    this.#callers.delete(caller.principal)
    for (let k = 0; k < caller.keys.length; k += 4) {
      const key = shortOf(caller.keys, k)
      const found = this.#byKey.get(key)
      if (found === caller) this.#byKey.delete(key)
      else if (found instanceof Set && found.delete(caller) && found.size === 0)
        this.#byKey.delete(key)
    }
  }
}

/** Returns 53 bits of a digest, which fit a number exactly. If two keys collide, the ledger is asked once too often. */
function shortOf(words: Uint32Array, at: number): number {
  return words[at]! * 2 ** 21 + (words[at + 1]! >>> 11)
}

function shortOfBytes(bytes: Uint8Array, at: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, 8)
  return view.getUint32(0, true) * 2 ** 21 + (view.getUint32(4, true) >>> 11)
}
