/**
 * Room: response. In: exchanges from their registration to their last byte. Out: which of them something concerns.
 * Never does: decide. An exchange is added *before* its look-up in the ledger (design law 3), so a row that comes after
 * the look-up finds it here.
 *
 * An exchange is young until it has outlived one sweep: most are over by then and cost one entry in one set. What stays
 * is filed by its caller, each caller under every revocation key it holds, so a cut costs what it hits. Before
 * anything is looked up by key, the young are filed too: nobody is too young to be cut.
 */
import type { LiveExchange } from '../domain/exchange.ts'
import { type Linked, LinkedList } from '../domain/linked.ts'
import type { Principal } from '../domain/principal.ts'
import { everyoneKey, keyBytes, wordsOfKeys } from '../domain/revocation.ts'

/** Expiry is looked at in steps of this many ms: late by one step at most, never early. */
const expiryStepMs = 50

/** Everything open by one token; `undefined` is everything open without one. */
interface Caller<E> {
  readonly principal: Principal | undefined
  /** As filed: a principal may come to hold more. */
  readonly keys: Uint32Array
  readonly open: Set<E>
}

interface Filing<E> {
  readonly caller: Caller<E>
  /** Step of its expiry, −1 for none. */
  readonly step: number
}

const keysOfAnonymous = wordsOfKeys([everyoneKey])

export class LiveRegistry<E extends LiveExchange & Linked<E>> {
  readonly #young = new LinkedList<E>()
  readonly #filed = new Map<E, Filing<E>>()
  readonly #callers = new Map<Principal | undefined, Caller<E>>()
  /** A key with one caller, the usual case, has no set of its own. */
  readonly #byKey = new Map<number, Caller<E> | Set<Caller<E>>>()
  readonly #byExpiry = new Map<number, Set<E>>()
  /** Every step up to this one has been taken. */
  #expiredTo = Math.floor(Date.now() / expiryStepMs)
  #onIdle: (() => void) | undefined
  #added = 0

  get size(): number {
    return this.#young.size + this.#filed.size
  }

  add(exchange: E): void {
    exchange.seq = ++this.#added
    this.#young.add(exchange)
  }

  /** Twice is fine. */
  remove(exchange: E): void {
    if (!this.#young.delete(exchange) && !this.#unfile(exchange)) return
    if (this.size === 0) this.#onIdle?.()
  }

  /** Files what started before `startedUs`; without it, everything. */
  settle(startedUs = Number.POSITIVE_INFINITY): void {
    for (const exchange of this.#young) {
      if (exchange.startedAtUs > startedUs) break
      this.#young.delete(exchange)
      this.#file(exchange)
    }
  }

  /** Oldest first, a copy: what is visited may end meanwhile. */
  all(): E[] {
    return [...this.#filed.keys(), ...this.#young]
  }

  /**
   * Whatever rows filed under these keys may concern; the caller asks the ledger.
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

  /** What has expired by now and was not returned before, though it may be open still. */
  expired(nowMs: number): E[] {
    const now = Math.floor(nowMs / expiryStepMs)
    // The clock was put back: what was filed by the one that was ahead would be due when that comes again.
    if (now < this.#expiredTo) this.#refile(now)
    const found: E[] = []
    // A clock that was set may have left more steps behind than there are tokens.
    const few = now - this.#expiredTo <= this.#byExpiry.size + 100
    if (!few) for (const [step, due] of this.#byExpiry) if (step <= now) found.push(...due)
    while (few && this.#expiredTo < now)
      found.push(...(this.#byExpiry.get(++this.#expiredTo) ?? []))
    this.#expiredTo = now
    return found
  }

  /**
   * A page of what is open, in order of registration.
   * @returns `last` is where the next page begins, undefined at the end
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

  /** Resolves once nothing is open, at the latest after `timeoutMs`. @returns how many were left. */
  idle(timeoutMs: number): Promise<number> {
    if (this.size === 0) return Promise.resolve(0)
    return new Promise((resolve) => {
      const finish = (): void => {
        clearTimeout(timer)
        this.#onIdle = undefined
        resolve(this.size)
      }
      const timer = setTimeout(finish, timeoutMs)
      this.#onIdle = finish
    })
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

  /** @returns its step. What has expired before it was filed is due at the next look, not never. */
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

  #unfile(exchange: E): boolean {
    const place = this.#filed.get(exchange)
    if (place === undefined) return false
    const { caller, step } = place
    this.#filed.delete(exchange)
    if (step !== -1) {
      const due = this.#byExpiry.get(step)
      if (due?.delete(exchange) && due.size === 0) this.#byExpiry.delete(step)
    }
    caller.open.delete(exchange)
    if (caller.open.size > 0) return true
    this.#callers.delete(caller.principal)
    for (let k = 0; k < caller.keys.length; k += 4) {
      const key = shortOf(caller.keys, k)
      const found = this.#byKey.get(key)
      if (found === caller) this.#byKey.delete(key)
      else if (found instanceof Set && found.delete(caller) && found.size === 0)
        this.#byKey.delete(key)
    }
    return true
  }
}

/** 53 bits of a digest, exact in a number: two callers under one key by chance are only asked in vain. */
function shortOf(words: Uint32Array, at: number): number {
  return words[at]! * 2 ** 21 + (words[at + 1]! >>> 11)
}

function shortOfBytes(bytes: Uint8Array, at: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, 8)
  return view.getUint32(0, true) * 2 ** 21 + (view.getUint32(4, true) >>> 11)
}
