/**
 * Keeps the workers alive: starts them, remembers what each new one must be told, watches their pulse, replaces
 * one that stops answering, drains them all.
 *
 * A runaway policy cannot be interrupted inside its thread, so a worker whose event loop has not turned for 1.3 s of its
 * own CPU time (see silence.ts), and in which no evaluation has ended meanwhile, is terminated: its own exchanges are lost
 * and counted, other workers' are not. What that means for caller and policy is in runaways.ts.
 */
import { monotonicUs } from '../domain/clock.ts'
import type { Log } from '../domain/log.ts'
import { GateError } from '../errors.ts'
import type {
  WorkerAnswer,
  WorkerCommand,
  WorkerQuestion,
  WorkerReport,
  WorkerStart,
} from '../messages.ts'
import { Runaways } from './runaways.ts'
import { watchMs } from './silence.ts'
import { type Evaluated, WorkerSlot } from './worker-slot.ts'

const answerMs = 2000
/** A worker that dies while starting is tried again at this pace instead of in a spin. */
const restartMs = 500
/** A worker that has not drained this long after the drain's deadline is ended as it is. */
const drainGraceMs = 2000

/** Not for a worker that starts later: it has the configuration of that moment, and nothing open. */
const passing = new Set<WorkerCommand['type']>(['drain', 'config', 'rows', 'question', 'listen'])

type StartOf = (
  index: number,
  ports: readonly number[] | undefined,
  pulse: SharedArrayBuffer,
) => WorkerStart

export interface SupervisorOptions {
  readonly workers: number
  readonly startOf: StartOf
  readonly log: Log
  readonly onKeysWanted: (issuer: string, kid: string | undefined) => void
  /** Open exchanges that rows have ended on one of the workers. */
  readonly onCuts: (byRow: ReadonlyMap<number, number>) => void
  readonly onRestart: () => void
}

export class Supervisor {
  readonly #options: SupervisorOptions
  readonly #slots: WorkerSlot[] = []
  /** What a worker that starts late must be told, newest of each kind. */
  readonly #replayed = new Map<string, WorkerCommand>()
  readonly #runaways = new Runaways()
  #ports: readonly number[] = []
  #watch: NodeJS.Timeout | undefined
  #watchedAtMs = 0
  #closing = false
  #asked = 0
  readonly #answers = new Map<number, (answer: WorkerAnswer) => void>()
  #changed: (() => void)[] = []

  constructor(options: SupervisorOptions) {
    this.#options = options
  }

  /**
   * Starts the workers; the first resolves port 0 for the others.
   * @param waits They bind no port before `listen`.
   * @returns the ports, one for each `listen` entry. @throws GateError ERR_LISTEN when the first cannot listen.
   */
  async open(ports: readonly number[], { waits }: { waits: boolean }): Promise<readonly number[]> {
    const up = (slot: WorkerSlot): boolean =>
      slot.listening || (waits && slot.configGeneration >= 0)
    this.#ports = ports
    for (let index = 0; index < this.#options.workers; index++) {
      const slot = new WorkerSlot(index, waits, {
        onReport: (slot, report) => this.#onReport(slot, report),
        onError: (slot, error) =>
          this.#options.log.error({ worker: slot.index, err: error }, 'a worker failed'),
        onExit: (slot, died, listened) => this.#onExit(slot, died, listened),
      })
      this.#slots.push(slot)
      this.#start(slot)
      if (index === 0)
        await this.#until(
          () => up(slot),
          () => slot.problem,
        )
    }
    await this.#until(
      () => this.#slots.every(up),
      () => this.#slots.find((slot) => slot.problem !== undefined)?.problem,
    )
    this.#watchedAtMs = performance.now()
    this.#watch = setInterval(() => this.#look(), watchMs)
    return this.#ports
  }

  /**
   * Lets workers that wait listen, as soon as it is time; in the order of `open`.
   * @returns the ports. @throws GateError ERR_LISTEN; ERR_NOT_READY when it is closed before
   */
  async listen(isTime: () => boolean): Promise<readonly number[]> {
    await this.#until(
      () => this.#closing || isTime(),
      () => undefined,
    )
    for (const slot of this.#slots) {
      if (this.#closing) throw new GateError('ERR_NOT_READY', 'the gate is draining')
      slot.waits = false
      // It was of a policy that came before the active one.
      slot.problem = undefined
      slot.send({ type: 'listen', ports: this.#ports })
      await this.#until(
        () => this.#closing || slot.listening,
        () => slot.problem,
      )
    }
    return this.#ports
  }

  /** Tells every worker, and every later one. */
  broadcast(command: WorkerCommand): void {
    const kind = command.type === 'keys' ? `keys ${command.keySet.issuer}` : command.type
    if (!passing.has(command.type)) this.#replayed.set(kind, command)
    if (command.type === 'policy') {
      this.#replayed.delete('policy-suspended')
      this.#replayed.delete('callers-suspended')
      this.#runaways.forget()
    }
    for (const slot of this.#slots) slot.send(command)
  }

  /** How many workers there are; they are numbered from 0. */
  get size(): number {
    return this.#slots.length
  }

  /** Asks one worker. @returns undefined when it does not answer in time */
  ask(index: number, question: WorkerQuestion): Promise<WorkerAnswer | undefined> {
    const slot = this.#slots[index]
    if (slot?.filled !== true) return Promise.resolve(undefined)
    const number = ++this.#asked
    return new Promise((resolve) => {
      const finish = (answer: WorkerAnswer | undefined): void => {
        clearTimeout(timer)
        this.#answers.delete(number)
        resolve(answer)
      }
      const timer = setTimeout(finish, answerMs, undefined)
      this.#answers.set(number, finish)
      slot.send({ type: 'question', number, question })
    })
  }

  /** True when every worker has activated this generation. */
  allActive(generation: number): boolean {
    return this.#slots.length > 0 && this.#slots.every((slot) => slot.generation === generation)
  }

  get allListening(): boolean {
    return this.#slots.length > 0 && this.#slots.every((slot) => slot.listening)
  }

  /** True until `listen` has found that it is time. */
  get waiting(): boolean {
    return this.#slots.some((slot) => slot.waits)
  }

  /** Resolves once every worker decides by this configuration (one that is being replaced will by then), or none will. */
  async allConfigured(generation: number): Promise<void> {
    await this.#until(
      () => this.#closing || this.#slots.every((slot) => slot.configGeneration >= generation),
      () => undefined,
    )
  }

  /**
   * Resolves once no worker reads an older table of the ledger. One that is dead reads none, and the one that takes
   * its slot is told the newest; one that is stuck is replaced in time.
   */
  async readersOf(generation: number): Promise<void> {
    await this.#until(
      () => this.#slots.every((slot) => !slot.filled || slot.table >= generation),
      () => undefined,
    )
  }

  get suspended(): boolean {
    return this.#replayed.has('policy-suspended')
  }

  status(): readonly object[] {
    return this.#slots.map((slot) => slot.status())
  }

  /** Open exchanges, as the workers said last. */
  get live(): number {
    return this.#slots.reduce((sum, slot) => sum + slot.live, 0)
  }

  get restarts(): number {
    return this.#slots.reduce((sum, slot) => sum + slot.restarts, 0)
  }

  /** Resolves once every worker has drained, or has had its time; from here on none is replaced. */
  async drain(timeoutMs: number): Promise<void> {
    if (this.#closing) return
    this.#closing = true
    clearInterval(this.#watch)
    this.broadcast({ type: 'drain', timeoutMs })
    const late = AbortSignal.timeout(timeoutMs + drainGraceMs)
    await this.#until(
      () => late.aborted || this.#slots.every((slot) => slot.drained || !slot.filled),
      () => undefined,
    )
  }

  /** Ends the threads. */
  async close(): Promise<void> {
    await this.drain(0)
    await Promise.all(this.#slots.map((slot) => slot.terminate()))
    for (const slot of this.#slots) slot.close()
  }

  #start(slot: WorkerSlot): void {
    const ports = slot.waits ? undefined : this.#ports
    slot.start((pulse) => this.#options.startOf(slot.index, ports, pulse), this.#replayed.values())
  }

  #onReport(slot: WorkerSlot, report: WorkerReport): void {
    const { log, onCuts, onKeysWanted } = this.#options
    switch (report.type) {
      case 'listening':
        slot.listening = true
        this.#ports = report.ports
        break
      case 'policy-active':
        slot.generation = report.generation
        slot.revision = report.revision
        break
      case 'config-active':
        slot.configGeneration = report.generation
        break
      case 'ledger-read':
        slot.table = report.generation
        break
      case 'policy-failed':
        slot.problem = GateError.from(report.error)
        log.error({ worker: slot.index, generation: report.generation }, report.error.message)
        break
      case 'answer':
        this.#answers.get(report.number)?.(report.answer)
        return
      case 'cuts':
        onCuts(report.byRow)
        return
      case 'keys-wanted':
        onKeysWanted(report.issuer, report.kid)
        return
      case 'failed':
        this.#onFailed(slot, GateError.from(report.error))
        break
      case 'drained':
        slot.drained = true
    }
    this.#notify()
  }

  #onFailed(slot: WorkerSlot, error: GateError): void {
    const { code, hint, message } = error
    slot.problem = error
    this.#options.log.error({ worker: slot.index, code, hint }, message)
    // The worker could not bind. Terminate it; its replacement tries again until the port is free.
    if (this.#watch !== undefined && !slot.listening && !slot.waits) void slot.terminate()
  }

  /** The thread is gone: another takes its place. */
  #onExit(slot: WorkerSlot, died: Evaluated, listened: boolean): void {
    if (!this.#closing) {
      slot.reset()
      this.#options.onRestart()
      if (died.generation !== 0) this.#recordDeath(died)
      const again = (): void => {
        if (!this.#closing) this.#start(slot)
      }
      if (listened) again()
      else setTimeout(again, restartMs)
    }
    this.#notify()
  }

  /** A death in the middle of an evaluation counts against its caller; deaths by several callers, against the policy. */
  #recordDeath({ generation, caller }: Evaluated): void {
    const active = this.#replayed.get('policy')
    if (active?.type !== 'policy' || active.policy.generation !== generation) return
    const { log } = this.#options
    const { revision } = active.policy
    const { suspendPolicy, callers, deaths, refusedMs } = this.#runaways.note(caller, monotonicUs())
    if (suspendPolicy) {
      log.error(
        { revision, callers },
        'policy suspended: evaluations for several callers did not finish in time',
      )
      this.broadcast({ type: 'policy-suspended', generation })
      return
    }
    log.error(
      { revision, deaths, refused_ms: refusedMs },
      'an evaluation did not finish in time; its caller is refused for a while',
    )
    const refused = this.#runaways.refused()
    this.broadcast({ type: 'callers-suspended', generation, callers: refused })
  }

  #look(): void {
    const nowMs = performance.now()
    const lateMs = nowMs - this.#watchedAtMs - watchMs
    this.#watchedAtMs = nowMs
    for (const slot of this.#slots) {
      if (!slot.isSilent(nowMs, lateMs)) continue
      this.#options.log.error({ worker: slot.index }, 'a worker stopped answering and is replaced')
      slot.kill()
    }
  }

  #notify(): void {
    for (const wake of this.#changed.splice(0)) wake()
  }

  /** Waits for a condition over the slots; re-checked at each report and at least every 100 ms. */
  async #until(done: () => boolean, problem: () => GateError | undefined): Promise<void> {
    while (!done()) {
      const trouble = problem()
      if (trouble !== undefined) throw trouble
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 100)
        this.#changed.push(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    }
  }
}
