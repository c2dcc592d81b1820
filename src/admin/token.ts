/** The bearer in `admin.token_file`: the gate makes it, and the commands read it. */
import { randomBytes } from 'node:crypto'
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { makeFolder } from '../domain/folder.ts'
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
        hint: 'give the user of the gate permission to create the folder of this file and the file',
      })
    }
    if ((statSync(path).mode & 0o077) !== 0) chmodSync(path, 0o600)
  }
  return readToken(path)
}
