/**
 * Whether any revocation concerns a principal (design section 6). A row matches when all its keys are among
 * the principal's and, if it is a cutoff, the token may have been issued before it. Every row that hits is
 * looked at; none wins by being first.
 */
import type { Principal } from '../domain/principal.ts'
import { everyoneKey, wordsOfKeys } from '../domain/revocation.ts'
import { expiryEpochS, flag, type LedgerView, sameKey, slotState } from './ledger.ts'

/** A denial by revocation. */
export interface Match {
  /** `revocations.id` of one of the rows that match. */
  readonly id: number
  /** True when only the ambiguous second (or the skew) denies: a token issued now would live. */
  readonly retry: boolean
}

/** @returns the denial, or undefined when no row concerns the principal. Costs one atomic load while nothing changed. */
export function findRevocation(
  ledger: LedgerView,
  principal: Principal,
  nowWallMs: number,
): Match | undefined {
  const version = ledger.version
  if (principal.cleanAtVersion === version) return undefined
  const found = probe(ledger, principal.keys, principal, nowWallMs)
  if (found === undefined) principal.cleanAtVersion = version
  return found
}

/** For callers without a token: only blocks act, and only those that name nobody in particular: `everyone`. */
export function findBlock(ledger: LedgerView, nowWallMs: number): Match | undefined {
  return probe(ledger, nobodysKeys, undefined, nowWallMs)
}

const nobodysKeys = wordsOfKeys([everyoneKey])

function probe(
  ledger: LedgerView,
  keys: Uint32Array,
  principal: Principal | undefined,
  nowWallMs: number,
): Match | undefined {
  const { words, mask } = ledger
  let found: Match | undefined
  for (let k = 0; k < keys.length; k += 4) {
    for (let index = keys[k]! & mask; ; index = (index + 1) & mask) {
      const at = ledger.slotAt(index)
      const state = Atomics.load(words, at)
      if (state === slotState.empty) break
      if (state !== slotState.live || !sameKey(keys, k, words, at + 1)) continue
      if (!allKeysHeld(ledger, at, keys)) continue
      if (hasExpired(ledger, at, nowWallMs)) continue
      const verdict = judge(words, at, principal)
      if (verdict === 'lives') continue
      const id = (words[at + 6]! >>> 0) * 2 ** 32 + (words[at + 5]! >>> 0)
      if (verdict === 'dies') return { id, retry: false }
      found ??= { id, retry: true }
    }
  }
  return found
}

function allKeysHeld(ledger: LedgerView, at: number, keys: Uint32Array): boolean {
  const { words } = ledger
  const extra = (words[at + 7]! >>> 8) & 0xff
  for (let e = 0; e < extra; e++) {
    const from = ledger.overflowAt + (words[at + 11]! + e) * 4
    let held = false
    for (let k = 0; k < keys.length && !held; k += 4) held = sameKey(keys, k, words, from)
    if (!held) return false
  }
  return true
}

function hasExpired(ledger: LedgerView, at: number, nowWallMs: number): boolean {
  const expiry = ledger.words[at + 10]! >>> 0
  return expiry !== 0 && ledger.serverNowMs(nowWallMs) >= (expiry + expiryEpochS) * 1000
}

/**
 * Intervals, not numbers: an `iat` in whole seconds covers its whole second, and so does a cutoff in whole
 * seconds. `doubtful` means that the two intervals overlap, or that only the skew makes the row bite: it denies,
 * and a token issued now would not be denied by this row.
 */
function judge(
  words: Int32Array,
  at: number,
  principal: Principal | undefined,
): 'lives' | 'doubtful' | 'dies' {
  const packed = words[at + 7]!
  if ((packed & flag.cutoff) === 0) return 'dies'
  if (principal === undefined) return 'lives'
  const cutoffUs = (words[at + 9]! >>> 0) * 2 ** 32 + (words[at + 8]! >>> 0)
  const issuedFromUs = Math.floor(principal.issuedAtS * 1e6)
  const issuedToUs = Number.isInteger(principal.issuedAtS) ? issuedFromUs + 1e6 : issuedFromUs + 1
  if (issuedToUs <= cutoffUs) return 'dies'
  const skewUs = (packed & flag.exact) === 0 ? principal.clockSkewMs * 1000 : 0
  if (principal.boundary === 'exclusive') {
    return skewUs > 0 && issuedFromUs < cutoffUs + skewUs ? 'doubtful' : 'lives'
  }
  const wholeSecondUs = cutoffUs % 1e6 === 0 ? 1e6 : 0
  return issuedFromUs < cutoffUs + Math.max(wholeSecondUs, skewUs) ? 'doubtful' : 'lives'
}
