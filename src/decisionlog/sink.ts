/** Where the lines go: standard output or a file that is appended to. Writes are complete or reported, in order. */
import { closeSync, fstatSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { GateError } from '../errors.ts'

export type SinkConfig = { readonly sink: 'stdout' } | { readonly file: string }

const retryMs = 5

export class Sink {
  readonly #fd: number
  readonly #owned: boolean

  /** @throws GateError ERR_CONFIG_FILE */
  constructor(config: SinkConfig) {
    this.#owned = 'file' in config
    try {
      if ('file' in config) mkdirSync(dirname(config.file), { recursive: true })
      this.#fd = 'file' in config ? openSync(config.file, 'a', 0o640) : 1
      fstatSync(this.#fd)
    } catch (error) {
      throw new GateError('ERR_CONFIG_FILE', 'the decision log cannot be opened', {
        cause: error,
        hint:
          'file' in config
            ? `make sure ${config.file} can be written`
            : 'standard output is closed',
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
    if (this.#owned) closeSync(this.#fd)
  }
}
