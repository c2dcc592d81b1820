/** `--timeout`: how long a command waits for the gates. */
import { GateError } from '../errors.ts'

export const standardTimeout = '5s'

/** @returns milliseconds. @throws GateError ERR_USAGE */
export function readTimeout(text: string): number {
  const [, digits, unit] = /^(\d{1,6})(ms|s|m)$/.exec(text) ?? []
  if (digits === undefined) {
    throw new GateError('ERR_USAGE', `--timeout ${text} is not a duration`, {
      hint: 'e.g. 500ms, 5s or 2m',
    })
  }
  return Number(digits) * (unit === 'ms' ? 1 : unit === 's' ? 1000 : 60_000)
}
