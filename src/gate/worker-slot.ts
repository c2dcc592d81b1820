/**
 * One worker's slot: the thread that runs in it now, what that thread has reported, and its pulse. The slot keeps its
 * number when its thread is replaced. The supervisor decides what to do after a report or a death.
 */
import { Worker } from 'node:worker_threads'
import { callerName } from '../domain/caller.ts'
import { ThreadCpu } from '../domain/thread-cpu.ts'
import { threadFile } from '../domain/thread-file.ts'
import { GateError } from '../errors.ts'
import { pulse, type WorkerCommand, type WorkerReport, type WorkerStart } from '../messages.ts'
import { Silence, watchMs } from './silence.ts'

/** Limit of silence before the first beat: the worker is loading its modules, which takes long on a busy machine. */
const startMs = 15_000

/** The evaluation that was running when a worker died. */
export interface LastEvaluation {
  /** Generation of the policy; 0 when none was being evaluated. */
  readonly generation: number
  /** Name of the caller, see domain/caller.ts. */
  readonly caller: string
}

export interface WorkerSlotEvents {
  readonly onReport: (slot: WorkerSlot, report: WorkerReport) => void
  readonly onError: (slot: WorkerSlot, error: Error) => void
  /** The thread has ended. @param listened Whether it was listening before */
  readonly onExit: (slot: WorkerSlot, died: LastEvaluation, listened: boolean) => void
}

export class WorkerSlot {
  readonly index: number
  readonly #events: WorkerSlotEvents
  #worker: Worker | undefined
  #pulse = new SharedArrayBuffer(64)
  #lastBeat = -1
  #startedAtMs = 0
  readonly #silence = new Silence()
  /** CPU use of the thread; undefined before the thread has reported its id, or when the machine does not tell. */
  #cpu: ThreadCpu | undefined
  /**
   * The evaluation at the moment when the thread was terminated. Queued requests may still be evaluated before the
   * thread ends, so the pulse may show a later one.
   */
  #killedIn: LastEvaluation | undefined
  /** True until the worker is told to listen; when false, the next thread binds its ports at once. */
  waits: boolean
  listening = false
  /** Generation of the policy that it uses. */
  generation = 0
  revision: string | undefined
  /** Number of the last change of the policy's data with which it decides. */
  patched = 0
  /** Generation of the ledger's table that it reads; 0 before it reads any. */
  table = 0
  configGeneration = -1
  /** The looks (see messages.ts) that this thread has not reported to be done. */
  readonly looks = new Set<number>()
  problem: GateError | undefined
  restarts = 0
  lostExchanges = 0
  drained = false

  constructor(index: number, waits: boolean, events: WorkerSlotEvents) {
    this.index = index
    this.waits = waits
    this.#events = events
  }

  /** False between the end of a thread and the start of the next. */
  get filled(): boolean {
    return this.#worker !== undefined
  }

  get live(): number {
    return Atomics.load(this.#words, pulse.live)
  }

  get #words(): Int32Array {
    return new Int32Array(this.#pulse)
  }

  /** @param replayed Commands that a thread that starts late has missed. */
  start(
    startOf: (pulse: SharedArrayBuffer) => WorkerStart,
    replayed: Iterable<WorkerCommand>,
  ): void {
    const start = startOf(this.#pulse)
    const worker = new Worker(threadFile('../worker/worker', import.meta.url), {
      workerData: start,
      transferList: [start.log],
      name: `worker ${this.index}`,
      // Objects of an exchange die young. A young generation with room for some thousands of exchanges means that few
      // are copied.
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

  /** Stops the thread in the middle of its work. */
  kill(): void {
    this.#killedIn = this.#evaluated()
    void this.#worker?.terminate()
  }

  /**
   * Checks the pulse; called every `watchMs`.
   * @param lateMs How late this call is: when the control thread was held up, the worker may have been too.
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
    // Report the silence once: the next check must wait until the thread is replaced.
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
      policy_data_changes: this.patched,
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

  /** Forgets everything that the last thread has reported. */
  reset(): void {
    this.restarts++
    this.generation = 0
    this.patched = 0
    this.configGeneration = -1
    this.table = 0
    this.looks.clear()
    this.#pulse = new SharedArrayBuffer(64)
  }

  #evaluated(): LastEvaluation {
    const words = this.#words
    return {
      generation: words[pulse.evaluating]!,
      caller: callerName(words[pulse.caller]!, words[pulse.caller + 1]!),
    }
  }
}
