/**
 * One worker's place: the thread that fills it now, what that thread has reported, and its pulse. The number of the place
 * stays when a thread is replaced. The supervisor decides what follows from a report or a death.
 */
import { Worker } from 'node:worker_threads'
import { callerName } from '../domain/caller.ts'
import { ThreadCpu } from '../domain/thread-cpu.ts'
import { GateError } from '../errors.ts'
import { pulse, type WorkerCommand, type WorkerReport, type WorkerStart } from '../messages.ts'
import { Silence, watchMs } from './silence.ts'

/** Until its first beat a worker is loading its modules, which a busy machine may take its time over. */
const startMs = 15_000

/** What was being evaluated when a worker died. */
export interface Evaluated {
  /** Of the policy; 0 for none. */
  readonly generation: number
  /** See domain/caller.ts. */
  readonly caller: string
}

export interface WorkerSlotEvents {
  readonly onReport: (slot: WorkerSlot, report: WorkerReport) => void
  readonly onError: (slot: WorkerSlot, error: Error) => void
  /** The thread is gone. @param listened Whether it had come as far as listening */
  readonly onExit: (slot: WorkerSlot, died: Evaluated, listened: boolean) => void
}

export class WorkerSlot {
  readonly index: number
  readonly #events: WorkerSlotEvents
  #worker: Worker | undefined
  #pulse = new SharedArrayBuffer(64)
  #lastBeat = -1
  #startedAtMs = 0
  readonly #silence = new Silence()
  /** What its thread uses; undefined before it has said which it is, and where the machine does not say. */
  #cpu: ThreadCpu | undefined
  /** At the moment of its termination: requests queued behind the evaluation may still come to theirs before it ends. */
  #killedIn: Evaluated | undefined
  /** It has not been told to listen; without this, the next thread binds at once. */
  waits: boolean
  listening = false
  /** Of the policy that it decides by. */
  generation = 0
  revision: string | undefined
  /** Generation of the ledger's table that it reads; 0 before it reads any. */
  table = 0
  configGeneration = -1
  problem: GateError | undefined
  restarts = 0
  lostExchanges = 0
  drained = false

  constructor(index: number, waits: boolean, events: WorkerSlotEvents) {
    this.index = index
    this.waits = waits
    this.#events = events
  }

  /** False between a death and the next start. */
  get filled(): boolean {
    return this.#worker !== undefined
  }

  get live(): number {
    return Atomics.load(this.#words, pulse.live)
  }

  get #words(): Int32Array {
    return new Int32Array(this.#pulse)
  }

  /** @param replayed What a thread that starts late must be told. */
  start(
    startOf: (pulse: SharedArrayBuffer) => WorkerStart,
    replayed: Iterable<WorkerCommand>,
  ): void {
    const start = startOf(this.#pulse)
    const worker = new Worker(new URL('../worker/worker.ts', import.meta.url), {
      workerData: start,
      transferList: [start.log],
      name: `worker ${this.index}`,
      // What an exchange allocates dies with it: with room for some thousands of them, few are ever copied.
      resourceLimits: { maxYoungGenerationSizeMb: 64 },
    })
    this.#worker = worker
    this.#lastBeat = -1
    this.#startedAtMs = performance.now()
    this.problem = undefined
    for (const command of replayed) worker.postMessage(command)
    worker.on('message', (report: WorkerReport) => {
      if (this.#worker === worker) this.#events.onReport(this, report)
    })
    worker.on('error', (error) => {
      this.problem = new GateError('ERR_LISTEN', `a worker could not start: ${error.message}`, {
        cause: error,
      })
      this.#events.onError(this, error)
    })
    worker.on('exit', () => {
      if (this.#worker === worker) this.#onExit()
    })
  }

  send(command: WorkerCommand): void {
    this.#worker?.postMessage(command)
  }

  async terminate(): Promise<void> {
    await this.#worker?.terminate()
  }

  /** The thread is stopped in the middle of what it does. */
  kill(): void {
    this.#killedIn = this.#evaluated()
    void this.#worker?.terminate()
  }

  /**
   * Looks at the pulse, every `watchMs`.
   * @param lateMs How late the look is: when this thread was held up, the worker may have been too.
   * @returns whether the worker has stopped answering
   */
  isSilent(nowMs: number, lateMs: number): boolean {
    if (this.#worker === undefined) return false
    const words = this.#words
    const beat = Atomics.load(words, pulse.beat)
    if (beat === 0) {
      if (lateMs > watchMs) this.#startedAtMs += lateMs
      if (nowMs - this.#startedAtMs <= startMs) return false
    } else if (beat !== this.#lastBeat) {
      this.#lastBeat = beat
      this.#cpu ??= ThreadCpu.of(words[pulse.thread]!)
      this.#silence.broken(nowMs, this.#cpu?.read())
      return false
    } else if (!this.#silence.tooLong(nowMs, this.#cpu?.read())) return false
    // One look in a row is enough: the next one is after its replacement.
    this.#startedAtMs = nowMs
    this.#silence.broken(nowMs, this.#cpu?.read())
    return true
  }

  status(): object {
    return {
      worker: this.index,
      listening: this.listening,
      config_generation: this.configGeneration,
      policy_generation: this.generation,
      policy_revision: this.revision ?? null,
      live_exchanges: this.live,
      restarts: this.restarts,
      lost_exchanges: this.lostExchanges,
      problem: this.problem === undefined ? null : `${this.problem.code} ${this.problem.message}`,
    }
  }

  close(): void {
    this.#cpu?.close()
    this.#cpu = undefined
  }

  #onExit(): void {
    const died = this.#killedIn ?? this.#evaluated()
    const listened = this.listening
    this.#killedIn = undefined
    this.lostExchanges += this.live
    this.#worker = undefined
    this.listening = false
    this.close()
    this.#events.onExit(this, died, listened)
  }

  /** The next thread begins with nothing that the last one has reported. */
  reset(): void {
    this.restarts++
    this.generation = 0
    this.configGeneration = -1
    this.table = 0
    this.#pulse = new SharedArrayBuffer(64)
  }

  #evaluated(): Evaluated {
    const words = this.#words
    return {
      generation: words[pulse.evaluating]!,
      caller: callerName(words[pulse.caller]!, words[pulse.caller + 1]!),
    }
  }
}
