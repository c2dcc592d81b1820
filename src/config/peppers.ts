/**
 * `revocation.pepper_file`: the secrets under which tokens are hashed, one a line, the newest first. New rows are made
 * with the first; gates look a token up under each, so a pepper is rotated by a new first line.
 */
import { readFileSync, statSync } from 'node:fs'
import { GateError } from '../errors.ts'

const minLength = 32
const maxPeppers = 4

/** @throws GateError ERR_CONFIG_FILE */
export function readPeppers(file: string | undefined): readonly Buffer[] {
  if (file === undefined) return []
  const unusable = (what: string, hint: string, cause?: unknown): GateError =>
    new GateError('ERR_CONFIG_FILE', `revocation.pepper_file: ${file} ${what}`, { hint, cause })
  let text: string
  try {
    if (process.platform !== 'win32' && (statSync(file).mode & 0o077) !== 0) {
      throw unusable('can be read by others', `chmod 600 ${file}`)
    }
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (error instanceof GateError) throw error
    throw unusable(
      'cannot be read',
      `make one for all gates: (umask 077; openssl rand -base64 48 > ${file})`,
      error,
    )
  }
  const lines = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
  if (lines.length === 0 || lines.length > maxPeppers) {
    throw unusable(`has ${lines.length} lines`, `one secret a line, at most ${maxPeppers}`)
  }
  if (lines.some((line) => line.length < minLength)) {
    throw unusable('has a short secret', `at least ${minLength} characters a line`)
  }
  return lines.map((line) => Buffer.from(line))
}
