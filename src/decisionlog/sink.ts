/** Where the lines go: standard output or a file that is appended to. Writes are complete or reported, in order. */
import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { makeFolder } from '../domain/folder.ts'
import { GateError } from '../errors.ts'

export type SinkConfig = { readonly sink: 'stdout' } | { readonly file: string }

const retryMs = 5

/** A pipe whose reader is stuck must not take the thread with it: nothing ends a thread in `write`. */
const append = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK

/** A pipe is opened anew, since whether it blocks would otherwise be shared with whoever gave it to us. */
function standardOutput(): number {
  if (!fstatSync(1).isFIFO()) return 1
  try {
    return openSync('/proc/self/fd/1', constants.O_WRONLY | constants.O_NONBLOCK)
  } catch {
    return 1
  }
}

/** As people find it in their configuration. */
export function nameOf(config: SinkConfig): string {
  return 'file' in config ? `decision_log.file: ${config.file}` : 'decision_log: standard output'
}

function adviceOf(config: SinkConfig, code: string | undefined): string {
  if (!('file' in config)) return 'standard output is closed; name a file in decision_log.file'
  if (code === 'ENXIO') return 'it is a pipe that nobody reads: start the reader first'
  return 'the user of the gate must be able to make its folder, and the file in it'
}

export class Sink {
  readonly #fd: number

  /** @throws GateError ERR_CONFIG_FILE */
  constructor(config: SinkConfig) {
    try {
      if ('file' in config) makeFolder(dirname(config.file))
      this.#fd = 'file' in config ? openSync(config.file, append, 0o640) : standardOutput()
      fstatSync(this.#fd)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      throw new GateError('ERR_CONFIG_FILE', `${nameOf(config)} cannot be opened (${code})`, {
        cause: error,
        hint: adviceOf(config, code),
      })
    }
  }

  /** Blocks this thread, which does nothing else, until everything is out. */
  write(bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length) {
      try {
        at += writeSync(this.#fd, bytes, at)
      } catch (error) {
        // A pipe whose reader is slow.
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, retryMs)
      }
    }
  }

  close(): void {
    if (this.#fd !== 1) closeSync(this.#fd)
  }
}
