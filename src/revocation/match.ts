/**
 * Whether any revocation concerns a principal (docs/revocation.md). A row matches when all its keys are among
 * the principal's, none of its negated ones is, and, if it is a cutoff, the token may have been issued (or its
 * bearer signed in) before it. Every row that hits is looked at; none wins by being first.
 *
 * Rows on the exchange (network, client certificate) are filed under that key and looked up by it, each time: what
 * a token's stamp covers is exactly the rows filed under a key of the token.
 */
import { addressBytes } from '../domain/address.ts'
import type { PeerIdentity } from '../domain/peer.ts'
import { heldKeys, type Principal } from '../domain/principal.ts'
import { everyoneKey, keyOf, networkKey, prefixCode, wordsOfKeys } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import { header, type LedgerView, peerBit, prefixWords } from './ledger.ts'
import { expiryEpochS, flag, type Table } from './table.ts'

/** A denial by revocation. */
export interface Match {
  /** `revocations.id` of one of the rows that match. */
  readonly id: number
  /** True when only the ambiguous second (or the skew) denies: a token issued now would live. */
  readonly retry: boolean
}

/** @returns the denial, or undefined when no row concerns the exchange. Costs two atomic loads while nothing changed. */
export function findRevocation(
  ledger: LedgerView,
  principal: Principal,
  peer: PeerIdentity,
  nowWallMs: number,
): Match | undefined {
  // Before the keys (see heldKeys) and before the probe: the stamp must not be newer than what was looked at.
  const version = ledger.version
  let found: Match | undefined
  if (principal.cleanAtVersion !== version) {
    const keys = heldKeys(principal)
    found = probe(ledger, keys, keys, principal, nowWallMs)
    if (found === undefined) principal.cleanAtVersion = version
  }
  const kinds = ledger.peer
  if (kinds === 0 || found?.retry === false) return found
  const keys = peerKeys(ledger, kinds, peer)
  if (keys.length === 0) return found
  const held = joined(keys, heldKeys(principal))
  return probe(ledger, keys, held, principal, nowWallMs) ?? found
}

/** A denial of somebody who shows no token: by `everyone`, or by where the exchange comes from. */
export interface Block {
  readonly id: number
  readonly on: 'everyone' | 'peer'
}

/** For callers without a token: only blocks act, and only those that name nobody in particular. */
export function findBlock(
  ledger: LedgerView,
  peer: PeerIdentity,
  nowWallMs: number,
): Block | undefined {
  const everyone = probe(ledger, anonymousKeys, anonymousKeys, undefined, nowWallMs)
  if (everyone !== undefined) return { id: everyone.id, on: 'everyone' }
  const kinds = ledger.peer
  if (kinds === 0) return undefined
  const keys = peerKeys(ledger, kinds, peer)
  const found = probe(ledger, keys, joined(keys, anonymousKeys), undefined, nowWallMs)
  return found === undefined ? undefined : { id: found.id, on: 'peer' }
}

const anonymousKeys = wordsOfKeys([everyoneKey])

function joined(a: Uint32Array, b: Uint32Array): Uint32Array {
  const both = new Uint32Array(a.length + b.length)
  both.set(a)
  both.set(b, a.length)
  return both
}

/** Digests of an address under the prefixes that were in use when they were computed. */
interface AddressKeys {
  readonly prefixes: Int32Array
  readonly keys: Uint32Array
}

/** By address: a pure function remembered, since the addresses of a busy gate come again and again. */
const remembered = new Map<string, AddressKeys>()
const maxRemembered = 4096

/** The keys under which rows on this exchange are filed. @throws GateError when that cannot be told. */
function peerKeys(ledger: LedgerView, kinds: number, peer: PeerIdentity): Uint32Array {
  const { address, certificate } = peer
  const networks = (kinds & peerBit.network) === 0 ? noKeys : addressKeys(ledger, address)
  if (certificate === undefined || (kinds & peerBit.certificate) === 0) return networks
  return joined(networks, wordsOfKeys([keyOf('client_cert', '', certificate)]))
}

const noKeys = new Uint32Array(0)

function addressKeys(ledger: LedgerView, address: string | undefined): Uint32Array {
  // Nobody may pass a blocked network by having no address.
  if (address === undefined) throw new GateError('ERR_NOT_READY')
  const prefixes = new Int32Array(prefixWords)
  for (let i = 0; i < prefixWords; i++) {
    prefixes[i] = Atomics.load(ledger.words, header.prefixes + i)
  }
  const before = remembered.get(address)
  if (before?.prefixes.every((word, i) => word === prefixes[i])) return before.keys
  const bytes = addressBytes(address)
  if (bytes === undefined) throw new GateError('ERR_NOT_READY')
  const found: Buffer[] = []
  for (let prefix = 0; prefix <= bytes.length * 8; prefix++) {
    const code = prefixCode(bytes.length, prefix)
    if (((prefixes[code >>> 5]! >>> (code & 31)) & 1) === 1) found.push(networkKey(bytes, prefix))
  }
  const keys = wordsOfKeys(found)
  if (remembered.size >= maxRemembered) remembered.clear()
  remembered.set(address, { prefixes, keys })
  return keys
}

/**
 * @param keys Under which rows are looked up. @param held All that the exchange holds, for the rows' other keys.
 */
function probe(
  ledger: LedgerView,
  keys: Uint32Array,
  held: Uint32Array,
  principal: Principal | undefined,
  nowWallMs: number,
): Match | undefined {
  const { table } = ledger
  let found: Match | undefined
  for (let k = 0; k < keys.length; k += 4) {
    for (let slot = table.find(keys, k, -1); slot !== -1; slot = table.find(keys, k, slot)) {
      if (!table.otherKeysFit(slot, held)) continue
      if (hasExpired(ledger, slot, nowWallMs)) continue
      const verdict = judge(table, slot, principal)
      if (verdict === 'lives') continue
      if (verdict === 'dies') return { id: table.idAt(slot), retry: false }
      found ??= { id: table.idAt(slot), retry: true }
    }
  }
  return found
}

function hasExpired(ledger: LedgerView, slot: number, nowWallMs: number): boolean {
  const expiry = ledger.table.expiryAt(slot)
  return expiry !== 0 && ledger.serverNowMs(nowWallMs) >= (expiry + expiryEpochS) * 1000
}

/**
 * Intervals, not numbers: an `iat` in whole seconds covers its whole second, and so does a cutoff in whole
 * seconds. `doubtful` means that the two intervals overlap, or that only the skew makes the row bite: it denies,
 * and a token issued now would not be denied by this row.
 */
function judge(
  table: Table,
  slot: number,
  principal: Principal | undefined,
): 'lives' | 'doubtful' | 'dies' {
  const packed = table.packedAt(slot)
  if ((packed & flag.cutoff) === 0) return 'dies'
  if (principal === undefined) return 'lives'
  const sinceS = (packed & flag.authTime) === 0 ? principal.issuedAtS : principal.authTimeS
  // A token that does not say when its bearer signed in cannot show that it was after the cutoff.
  if (sinceS === undefined) return 'dies'
  const cutoffUs = table.cutoffUsAt(slot)
  const issuedFromUs = Math.floor(sinceS * 1e6)
  const issuedToUs = Number.isInteger(sinceS) ? issuedFromUs + 1e6 : issuedFromUs + 1
  if (issuedToUs <= cutoffUs) return 'dies'
  const skewUs = (packed & flag.exact) === 0 ? principal.clockSkewMs * 1000 : 0
  if (principal.boundary === 'exclusive') {
    return skewUs > 0 && issuedFromUs < cutoffUs + skewUs ? 'doubtful' : 'lives'
  }
  const wholeSecondUs = cutoffUs % 1e6 === 0 ? 1e6 : 0
  return issuedFromUs < cutoffUs + Math.max(wholeSecondUs, skewUs) ? 'doubtful' : 'lives'
}
