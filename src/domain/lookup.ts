/** Resolving a name so that a connection goes only to an address that was checked, whatever DNS says a moment later. */
import { type LookupAddress, lookup as resolve } from 'node:dns'
import type { LookupFunction } from 'node:net'

export interface AddressCheck {
  /** Returns the addresses that a connection may go to. */
  allowed(name: string, found: readonly LookupAddress[]): readonly LookupAddress[]
  /** The failure where none is allowed. */
  refusal(name: string, found: readonly LookupAddress[]): Error
}

/** Resolves a name as Node does, and hands on what the check allows. */
export function checkedLookup({ allowed, refusal }: AddressCheck): LookupFunction {
  return (name, options, callback) => {
    resolve(name, { ...options, all: true }, (error, found) => {
      if (error !== null) return callback(error, '', 0)
      const checked = allowed(name, found)
      const [first] = checked
      if (first === undefined) callback(refusal(name, found), '', 0)
      else if (options.all) callback(null, [...checked])
      else callback(null, first.address, first.family)
    })
  }
}
