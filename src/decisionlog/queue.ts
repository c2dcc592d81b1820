/**
 * A worker's end of the decision log: lines are handed to the log thread in batches. What that thread has not
 * written yet is counted in shared memory; past the cap lines are dropped and counted, the request path never waits.
 */
import type { MessagePort } from 'node:worker_threads'
import type { LogBatch } from '../messages.ts'

export interface LogQueueOptions {
  readonly port: MessagePort
  /** One 32-bit word: UTF-16 units handed over and not written yet. */
  readonly backlog: SharedArrayBuffer
  readonly metrics: { count(name: 'dropgate_decision_log_dropped_total'): void }
}

export const maxBacklog = 32 * 1024 * 1024
const batchLines = 256
const batchMs = 20
const encoder = new TextEncoder()

export class LogQueue {
  readonly #options: LogQueueOptions
  readonly #backlog: Int32Array
  #text = ''
  #lines = 0
  #size = 0
  #timer: NodeJS.Timeout | undefined

  constructor(options: LogQueueOptions) {
    this.#options = options
    this.#backlog = new Int32Array(options.backlog)
  }

  push(line: string): void {
    if (Atomics.load(this.#backlog, 0) + this.#size > maxBacklog) {
      this.#options.metrics.count('dropgate_decision_log_dropped_total')
      return
    }
    // One growing text, flattened once: the lines themselves are put together from many parts.
    this.#text += `${line}\n`
    this.#lines++
    this.#size += line.length
    if (this.#lines >= batchLines) this.flush()
    else this.#timer ??= setTimeout(() => this.flush(), batchMs)
  }

  flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#lines === 0) return
    // Encoded here and handed over: as texts, every line would be copied twice more on its way to the log thread.
    const bytes = encoder.encode(this.#text)
    const batch: LogBatch = { bytes, lines: this.#lines, size: this.#size }
    Atomics.add(this.#backlog, 0, this.#size)
    this.#options.port.postMessage(batch, [bytes.buffer])
    this.#text = ''
    this.#lines = 0
    this.#size = 0
  }
}
