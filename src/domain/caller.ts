/**
 * Caller: who is behind an exchange, as a name of 64 bits that fits into two words of shared memory. Of a verified token it
 * is the issuer and the subject, else the address it comes from (of version 6 its /64, which is one customer's). Not:
 * principal, which is one token.
 */
import { hash } from 'node:crypto'
import { addressBytes } from './address.ts'
import { keyOf } from './revocation.ts'

export interface Caller {
  /** Two signed 32-bit words. */
  readonly first: number
  readonly second: number
  readonly name: string
}

export function subjectCaller(issuer: string, subject: string): Caller {
  return callerOf(keyOf('subject', issuer, subject))
}

/** A pure function remembered: the addresses of a busy gate come again and again. */
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

/** As it is found in shared memory. */
export function callerName(first: number, second: number): string {
  return `${first}:${second}`
}

function callerOf(digest: Buffer): Caller {
  const [first, second] = [digest.readInt32LE(0), digest.readInt32LE(4)]
  return { first, second, name: callerName(first, second) }
}
