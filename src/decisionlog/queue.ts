/**
 * The decision log's queue in a worker. Lines are written as bytes into chunks of shared memory. A full chunk is
 * handed over to the log thread; a partly filled one after `batchMs`, once the log thread has returned all earlier
 * chunks. The log thread writes a chunk and returns it. Chunks that were used before are reused first, so that little
 * memory is touched. If all chunks are handed over, lines are dropped and counted: no request ever waits.
 */
import type { MessagePort } from 'node:worker_threads'
import { withoutMisleading } from '../domain/json.ts'
import type { LogBatch } from '../messages.ts'

export interface LogQueueOptions {
  readonly port: MessagePort
  readonly metrics: { count(name: 'dropgate_decision_log_dropped_total'): void }
}

const chunkBytes = 256 * 1024
/** Most chunks per worker: 32 MiB of lines may wait for the sink. */
export const maxChunks = 128
const batchMs = 20
const newline = 10

interface Chunk {
  readonly index: number
  readonly bytes: Buffer
}

export class LogQueue {
  readonly #options: LogQueueOptions
  /** By chunk: 1 while the log thread has it. */
  readonly #handedOver = new Int32Array(new SharedArrayBuffer(4 * maxChunks))
  readonly #chunks: Chunk[] = []
  #chunk: Chunk | undefined
  /** Index of the last chunk that was handed over. When it is returned, all are: the log thread keeps the order. */
  #last = 0
  #length = 0
  #lines = 0
  #timer: NodeJS.Timeout | undefined

  constructor(options: LogQueueOptions) {
    this.#options = options
  }

  /** @param line JSON text without a newline. What would mislead a reader in it is written as an escape. */
  push(line: string): void {
    // UTF-8 needs at most three bytes per UTF-16 unit.
    const most = line.length * 3 + 1
    if (this.#length + most > chunkBytes) this.flush()
    this.#chunk ??= this.#free()
    if (this.#chunk === undefined) {
      this.#options.metrics.count('dropgate_decision_log_dropped_total')
      return
    }
    if (most > chunkBytes) {
      this.#pushLong(withoutMisleading(line), this.#chunk)
      return
    }
    const { bytes } = this.#chunk
    const written = bytes.write(line, this.#length, 'utf8')
    // Most lines are ASCII, which the number of bytes tells at no cost.
    if (written !== line.length) {
      const safe = withoutMisleading(line)
      if (safe !== line) {
        this.push(safe)
        return
      }
    }
    this.#length += written
    bytes[this.#length++] = newline
    this.#lines++
    this.#timer ??= setTimeout(() => this.#flushInTurn(), batchMs)
  }

  /**
   * Hands over a partly filled chunk if the log thread has returned all others. If the sink is stuck, only full
   * chunks are handed over: otherwise a few lines per second would use up all chunks while they are almost empty, and
   * later lines would be dropped.
   */
  #flushInTurn(): void {
    if (Atomics.load(this.#handedOver, this.#last) === 0) this.flush()
    else this.#timer = setTimeout(() => this.#flushInTurn(), batchMs)
  }

  flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#lines === 0) return
    const { index } = this.#chunk!
    this.#handOver(index)
    this.#post({ type: 'chunk', index, length: this.#length, lines: this.#lines })
    this.#chunk = undefined
    this.#length = 0
    this.#lines = 0
  }

  #free(): Chunk | undefined {
    for (const chunk of this.#chunks) {
      if (Atomics.load(this.#handedOver, chunk.index) === 0) return chunk
    }
    const index = this.#chunks.length
    if (index === maxChunks) return undefined
    const memory = new SharedArrayBuffer(chunkBytes)
    this.#post({ type: 'memory', index, memory, handedOver: this.#handedOver })
    const chunk = { index, bytes: Buffer.from(memory) }
    this.#chunks.push(chunk)
    return chunk
  }

  /**
   * Sends a line that is longer than a chunk by itself. It uses up a chunk meanwhile, so no more long lines wait than
   * chunks.
   */
  #pushLong(line: string, { index }: Chunk): void {
    this.#handOver(index)
    this.#chunk = undefined
    this.#post({ type: 'long', index, bytes: Buffer.from(`${line}\n`) })
  }

  #handOver(index: number): void {
    Atomics.store(this.#handedOver, index, 1)
    this.#last = index
  }

  #post(batch: LogBatch): void {
    this.#options.port.postMessage(batch)
  }
}
