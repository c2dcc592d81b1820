/** The bearer in `admin.token_file`: the gate makes it, and the commands read it. */
import { randomBytes } from 'node:crypto'
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { makeFolder } from '../domain/folder.ts'
import { isOpenToOthers } from '../domain/secret-file.ts'
import { GateError } from '../errors.ts'

/** The admin token of a running gate. @throws GateError ERR_CONFIG_FILE */
export function readToken(path: string): string {
  try {
    const token = readFileSync(path, 'utf8').trim()
    if (token.length >= 16) return token
  } catch (error) {
    throw new GateError('ERR_CONFIG_FILE', `cannot read admin.token_file ${path}`, {
      cause: error,
      hint: 'the gate creates the file when it starts; run this command as the same user as the gate',
    })
  }
  throw new GateError(
    'ERR_CONFIG_FILE',
    `admin.token_file ${path} holds fewer than 16 characters`,
    {
      hint: 'delete the file; the gate creates a new one when it starts',
    },
  )
}

/** The token for a gate that starts; a file that is there is kept. @throws GateError ERR_CONFIG_FILE */
export function readOrMakeToken(path: string): string {
  try {
    makeFolder(dirname(path))
    writeFileSync(path, `${randomBytes(24).toString('base64url')}\n`, { mode: 0o600, flag: 'wx' })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'EEXIST') {
      throw new GateError('ERR_CONFIG_FILE', `cannot write admin.token_file ${path} (${code})`, {
        cause: error,
        hint: 'set state_dir to a folder that the gate may write, or admin.token_file to a file that is there',
      })
    }
    closeToOthers(path)
  }
  return readToken(path)
}

function closeToOthers(path: string): void {
  if (!isOpenToOthers(statSync(path))) return
  try {
    chmodSync(path, 0o600)
  } catch (error) {
    throw new GateError('ERR_CONFIG_FILE', `admin.token_file ${path} can be read by other users`, {
      cause: error,
      hint: 'give it mode 0600; mode 0440 where root hands it over to the group of the gate',
    })
  }
}
