/**
 * Caller: the source of an exchange, as a name of 64 bits that fits into two words of shared memory. It is a hash of
 * the issuer and the subject of a verified token. Without a token, it is a hash of the address (for IPv6 of its /64
 * network, which belongs to one customer). Not: principal, which belongs to one token.
 */
import { hash } from 'node:crypto'
import { addressBytes } from './address.ts'
import { keyOf } from './revocation.ts'

export interface Caller {
  /** The name as two signed 32-bit words. */
  readonly first: number
  readonly second: number
  readonly name: string
}

export function subjectCaller(issuer: string, subject: string): Caller {
  return callerOf(keyOf('subject', issuer, subject))
}

/** Cache of callers by address: the same addresses come again and again. */
const remembered = new Map<string, Caller>()
const maxRemembered = 4096

export function addressCaller(address: string): Caller {
  const before = remembered.get(address)
  if (before !== undefined) return before
  const bytes = addressBytes(address) ?? Buffer.from(address)
  const network = bytes.length === 16 ? bytes.subarray(0, 8) : bytes
  const caller = callerOf(hash('sha256', network, 'buffer'))
  if (remembered.size >= maxRemembered) remembered.clear()
  remembered.set(address, caller)
  return caller
}

/** The name as text, from its two words in shared memory. */
export function callerName(first: number, second: number): string {
  return `${first}:${second}`
}

function callerOf(digest: Buffer): Caller {
  const [first, second] = [digest.readInt32LE(0), digest.readInt32LE(4)]
  return { first, second, name: callerName(first, second) }
}
