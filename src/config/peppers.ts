/**
 * Reads `revocation.pepper_file`: the secrets (peppers) for token hashes, one per line, the newest first. The first
 * line hashes the tokens of new revocations; a gate looks each token up under every pepper. Add a new first line to
 * rotate the pepper.
 */
import { readFileSync, statSync } from 'node:fs'
import { isOpenToOthers } from '../domain/secret-file.ts'
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
    if (process.platform !== 'win32' && isOpenToOthers(statSync(file))) {
      throw unusable('can be read by other users', `chmod 600 ${file}`)
    }
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (error instanceof GateError) throw error
    throw unusable(
      'cannot be read',
      `create one file and copy it to all gates: (umask 077; openssl rand -base64 48 > ${file})`,
      error,
    )
  }
  const lines = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
  if (lines.length === 0 || lines.length > maxPeppers) {
    throw unusable(
      `has ${lines.length} secrets`,
      `write one secret per line, 1 to ${maxPeppers} lines`,
    )
  }
  if (lines.some((line) => line.length < minLength)) {
    throw unusable(
      'has a secret that is too short',
      `each line needs at least ${minLength} characters`,
    )
  }
  return lines.map((line) => Buffer.from(line))
}
