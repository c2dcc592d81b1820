/**
 * The sink of the decision log: standard output, or a file that lines are appended to. Lines are written in order; a
 * failed write is reported.
 */
import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { makeFolder } from '../domain/folder.ts'
import { GateError } from '../errors.ts'

export type SinkConfig = { readonly sink: 'stdout' } | { readonly file: string }

const retryMs = 5

/**
 * Flags for opening the file. O_NONBLOCK is needed for a pipe whose reader is stuck: a thread that blocks in `write`
 * cannot be ended.
 */
const append = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK

/** Opens standard output anew: setting O_NONBLOCK on the inherited pipe would also change it for the parent process. */
function standardOutput(): number {
  if (!fstatSync(1).isFIFO()) return 1
  try {
    return openSync('/proc/self/fd/1', constants.O_WRONLY | constants.O_NONBLOCK)
  } catch {
    return 1
  }
}

/** Names the sink by its option in the configuration. */
export function nameOf(config: SinkConfig): string {
  return 'file' in config ? `decision_log.file: ${config.file}` : 'decision_log: standard output'
}

function adviceOf(config: SinkConfig, code: string | undefined): string {
  if (!('file' in config)) return 'standard output is closed; name a file in decision_log.file'
  if (code === 'ENXIO') return 'the file is a pipe without a reader: start the reader first'
  return 'give the user of the gate permission to create the folder of this file and the file'
}

/** @throws GateError ERR_CONFIG_FILE */
function openSink(config: SinkConfig): number {
  try {
    if ('file' in config) makeFolder(dirname(config.file))
    const fd = 'file' in config ? openSync(config.file, append, 0o640) : standardOutput()
    fstatSync(fd)
    return fd
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new GateError('ERR_CONFIG_FILE', `${nameOf(config)} cannot be opened (${code})`, {
      cause: error,
      hint: adviceOf(config, code),
    })
  }
}

export class Sink {
  readonly #config: SinkConfig
  #fd: number

  /** @throws GateError ERR_CONFIG_FILE */
  constructor(config: SinkConfig) {
    this.#config = config
    this.#fd = openSink(config)
  }

  /**
   * Opens the file anew, since another one may have its name by now. The old one stays in use where that fails.
   * @returns false for standard output, which cannot be opened anew
   * @throws GateError ERR_CONFIG_FILE
   */
  reopen(): boolean {
    if (!('file' in this.#config)) return false
    const fd = openSink(this.#config)
    this.close()
    this.#fd = fd
    return true
  }

  /** Writes all bytes before it returns. It may block this thread, which has no other work. */
  write(bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length) {
      try {
        at += writeSync(this.#fd, bytes, at)
      } catch (error) {
        // EAGAIN: the pipe is full because its reader is slow; try again.
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, retryMs)
      }
    }
  }

  close(): void {
    if (this.#fd !== 1) closeSync(this.#fd)
  }
}
