/**
 * Kept keys: the last good key set of each issuer on disk, so that a gate that starts while an issuer is away still
 * verifies its tokens. The keys are public; what counts is that they are the issuer's. So a file that another user of the
 * machine could have written is not read, its keys pass the same check as fetched ones, and their age counts from the fetch:
 * `keys_max_stale` ends them like those of a gate that went on running.
 */
import { createHash } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { IssuerConfig } from '../config/options.ts'
import { makeFolder } from '../domain/folder.ts'
import { GateError } from '../errors.ts'
import { admitKeys, type Jwk } from './admit.ts'

export interface Kept {
  readonly keys: readonly Jwk[]
  /** When they were fetched, in ms since 1970. */
  readonly goodAt: number
}

interface KeptFile {
  readonly issuer: string
  /** Where the keys were found: null for discovery. Keys of another place are not those of this configuration. */
  readonly jwks_uri: string | null
  readonly fetched_at: string
  readonly keys: readonly Jwk[]
}

/** How far the clock may have been set back since the fetch. */
const clockMs = 5 * 60_000

export class KeptKeys {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  /**
   * @returns undefined where nothing was kept for this issuer, or where it is too old
   * @throws GateError ERR_KEPT_KEYS when there is a file that cannot be used
   */
  read(config: IssuerConfig, now: number): Kept | undefined {
    if (config.jwks_file !== undefined) return undefined
    const path = this.#pathOf(config.issuer)
    const text = readOwn(path)
    if (text === undefined) return undefined
    try {
      const file = JSON.parse(text) as KeptFile
      const goodAt = Date.parse(file.fetched_at)
      if (file.issuer !== config.issuer || file.jwks_uri !== placeOf(config)) return undefined
      if (!(goodAt <= now + clockMs)) throw new Error('it was fetched in the future')
      if (now > goodAt + config.keys_max_stale) return undefined
      const { keys } = admitKeys(JSON.stringify({ keys: file.keys }), config.algorithms)
      return { keys, goodAt }
    } catch (cause) {
      throw unusable(path, cause)
    }
  }

  /** @throws GateError ERR_KEPT_KEYS when the file cannot be written */
  async write(config: IssuerConfig, { keys, goodAt }: Kept): Promise<void> {
    if (config.jwks_file !== undefined) return
    const path = this.#pathOf(config.issuer)
    const content: KeptFile = {
      issuer: config.issuer,
      jwks_uri: placeOf(config),
      fetched_at: new Date(goodAt).toISOString(),
      keys,
    }
    // A name of its own for each writing: another gate may share the folder.
    const unfinished = `${path}.${process.pid}.${crypto.randomUUID()}`
    try {
      makeFolder(this.#folder)
      const file = await open(unfinished, 'wx', 0o600)
      try {
        await file.writeFile(`${JSON.stringify(content)}\n`)
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(unfinished, path)
    } catch (cause) {
      await rm(unfinished, { force: true }).catch(() => {})
      throw new GateError(
        'ERR_KEPT_KEYS',
        `the keys of ${config.issuer} cannot be kept in ${path} (${(cause as NodeJS.ErrnoException).code})`,
        {
          cause,
          hint: 'make `state_dir` writable for the user of the gate: without the file, a gate that starts while the issuer is away has no keys',
        },
      )
    }
  }

  #pathOf(issuer: string): string {
    return join(
      this.#folder,
      `${createHash('sha256').update(issuer).digest('hex').slice(0, 32)}.json`,
    )
  }
}

function placeOf({ jwks_uri }: IssuerConfig): string | null {
  return jwks_uri ?? null
}

/** Far more than `admitKeys` takes. */
const maxBytes = 1024 * 1024

/**
 * Looks at the file that it reads: between two looks at a name another user, who may write to the folder, could put
 * another file there. No link is followed, and a pipe is not waited for.
 * @returns undefined where there is no file @throws GateError ERR_KEPT_KEYS
 */
function readOwn(path: string): string | undefined {
  let file: number | undefined
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    const found = fstatSync(file)
    const self = process.getuid?.()
    if ((found.mode & 0o022) !== 0 || (self !== undefined && ![self, 0].includes(found.uid)))
      throw new Error('another user of this machine could have written the file')
    if (!found.isFile() || found.size > maxBytes) throw new Error('it is not a file of keys')
    return readFileSync(file, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw unusable(path, cause)
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

function unusable(path: string, cause: unknown): GateError {
  const why = (cause as Error).message
  return new GateError('ERR_KEPT_KEYS', `the kept keys in ${path} cannot be used: ${why}`, {
    cause,
  })
}
