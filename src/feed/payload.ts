/**
 * Reads notifications that carry rows. Every login that may connect can send one, so the rows are used only after the
 * MAC is checked. A notification that fails the check only wakes the feed.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { keyBytes, type RevocationRow } from '../domain/revocation.ts'

export interface MacKey {
  readonly id: number
  readonly key: Buffer
}

export interface Payload {
  /** The transaction that inserted the rows. */
  readonly xid: bigint
  readonly rows: readonly RevocationRow[]
}

const macBytes = 32
const headBytes = 12
const rowBytes = 8 + keyBytes + 8 + 8 + 1

/** @returns undefined when the message has no valid MAC, or carries no rows */
export function parsePayload(message: string, mac: MacKey): Payload | undefined {
  const bytes = Buffer.from(message.slice(1), 'base64')
  const body = bytes.subarray(macBytes)
  if (body.length < headBytes || (body.length - headBytes) % rowBytes !== 0) return undefined
  const expected = createHmac('sha256', mac.key).update(body).digest()
  if (!timingSafeEqual(expected, bytes.subarray(0, macBytes))) return undefined
  if (body.readInt32BE(0) !== mac.id) return undefined
  const rows: RevocationRow[] = []
  for (let at = headBytes; at < body.length; at += rowBytes) rows.push(readRow(body, at))
  return { xid: body.readBigInt64BE(4), rows }
}

function readRow(body: Buffer, at: number): RevocationRow {
  const flags = body[at + rowBytes - 1]!
  const cutoffAt = at + 8 + keyBytes
  return {
    id: Number(body.readBigInt64BE(at)),
    keys: Buffer.from(body.subarray(at + 8, cutoffAt)),
    cutoffUs: flags & 1 ? Number(body.readBigInt64BE(cutoffAt)) : null,
    exact: (flags & 2) !== 0,
    authTime: (flags & 4) !== 0,
    expiresAtS: flags & 8 ? Number(body.readBigInt64BE(cutoffAt + 8)) : null,
  }
}
