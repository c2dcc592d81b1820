/**
 * Finds the revocations that concern a principal. A row matches when the principal has all its keys and none of its
 * negated keys and, if the row is a cutoff, the token may have been issued (or its bearer signed in) before it. Every
 * matching row is looked at: the first one does not decide.
 *
 * Rows for a network or a client certificate are looked up by that key for each exchange. The stamp of a token covers
 * only the rows that are filed under a key of the token.
 */
import { addressBytes } from '../domain/address.ts'
import type { PeerIdentity } from '../domain/peer.ts'
import { heldKeys, type Principal } from '../domain/principal.ts'
import { everyoneKey, keyOf, networkKey, prefixCode, wordsOfKeys } from '../domain/revocation.ts'
import { GateError } from '../errors.ts'
import { header, type LedgerView, peerBit, prefixWords } from './ledger.ts'
import { expiryEpochS, flag, type Table } from './table.ts'

/** The revocation that denies a request. */
export interface Match {
  /** `revocations.id` of one of the matching rows. */
  readonly id: number
  /**
   * True if the row applies only because the token and the cutoff fall into the same second or the clock skew: a
   * token issued now would be accepted.
   */
  readonly retry: boolean
}

/**
 * @returns The revocation, or undefined when no row concerns the exchange. Costs two atomic loads if the ledger did
 * not change since the last call for this principal.
 */
export function findRevocation(
  ledger: LedgerView,
  principal: Principal,
  peer: PeerIdentity,
  nowWallMs: number,
): Match | undefined {
  // Load the version before the keys (see heldKeys) and before the probe: the stamp must not be newer than the rows
  // that were looked at.
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

/**
 * A revocation that denies a caller without a token: a row for `everyone`, or for the network or certificate of the
 * caller.
 */
export interface Block {
  readonly id: number
  readonly on: 'everyone' | 'peer'
}

/**
 * Finds a revocation for a caller without a token. Only blocks apply (there is no issue time), and only rows that
 * name no subject, session or token.
 */
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

/** Digests of an address under all prefixes that were in use when they were computed. */
interface AddressKeys {
  readonly prefixes: Int32Array
  readonly keys: Uint32Array
}

/** Cache of address keys by address: the same addresses come again and again. */
const remembered = new Map<string, AddressKeys>()
const maxRemembered = 4096

/**
 * Returns the keys under which rows for this exchange are filed. @throws GateError when the address of the peer is
 * unknown.
 */
function peerKeys(ledger: LedgerView, kinds: number, peer: PeerIdentity): Uint32Array {
  const { address, certificate } = peer
  const networks = (kinds & peerBit.network) === 0 ? noKeys : addressKeys(ledger, address)
  if (certificate === undefined || (kinds & peerBit.certificate) === 0) return networks
  return joined(networks, wordsOfKeys([keyOf('client_cert', '', certificate)]))
}

const noKeys = new Uint32Array(0)

function addressKeys(ledger: LedgerView, address: string | undefined): Uint32Array {
  // A caller without a known address must not get past a blocked network.
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
 * @param keys Keys under which rows are looked up.
 * @param held All keys of the exchange, to compare with the other keys of a row.
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
 * Compares two intervals, not two numbers: an `iat` in whole seconds covers its whole second, and so does a cutoff in
 * whole seconds. `doubtful` means that the intervals overlap, or that only the clock skew makes the row apply: the
 * token is denied, but this row would not deny a token issued now.
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
  // A token without a sign-in time cannot prove that its bearer signed in after the cutoff.
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
