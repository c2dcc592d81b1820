/**
 * Keeps the workers alive: starts them, sends each new one the commands that it has missed, watches their pulse,
 * replaces a worker that stops answering, and drains them all.
 *
 * A policy evaluation that never ends cannot be interrupted inside its thread. So a worker is terminated when its event
 * loop has not turned, and no evaluation has ended, for 1.3 s of its own CPU time (see silence.ts). Its own exchanges
 * are lost and counted; those of other workers are not. The consequences for caller and policy are in runaways.ts.
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
import type { PolicyPackage } from '../policy/package.ts'
import { Runaways } from './runaways.ts'
import { watchMs } from './silence.ts'
import { type LastEvaluation, WorkerSlot } from './worker-slot.ts'

const answerMs = 2000
/** Pause before a worker that died while starting is started again. */
const restartMs = 500
/** A worker that has not drained this long after the deadline of the drain is terminated. */
const drainGraceMs = 2000

/**
 * Commands that are not repeated to a worker that starts later: it starts with the current configuration and has no
 * open exchange.
 */
const passing = new Set<WorkerCommand['type']>(['drain', 'config', 'rows', 'question', 'listen'])

/** A worker that starts later gets the newest command of each kind, and every change of the data. */
function kindOf(command: WorkerCommand): string {
  if (command.type === 'keys') return `keys ${command.keySet.issuer}`
  return command.type === 'patch' ? `patch ${command.patch.number}` : command.type
}

type StartOf = (
  index: number,
  ports: readonly number[] | undefined,
  pulse: SharedArrayBuffer,
) => WorkerStart

export interface SupervisorOptions {
  readonly workers: number
  readonly startOf: StartOf
  readonly log: Log
  readonly onKeysWanted: (issuer: string, seen: number) => void
  /** Called with the open exchanges that rows have ended on one of the workers. */
  readonly onCuts: (byRow: ReadonlyMap<number, number>) => void
  readonly onRestart: () => void
}

export class Supervisor {
  readonly #options: SupervisorOptions
  readonly #slots: WorkerSlot[] = []
  /** Commands for a worker that starts later: the newest of each kind. */
  readonly #replayed = new Map<string, WorkerCommand>()
  readonly #runaways = new Runaways()
  #ports: readonly number[] = []
  #watch: NodeJS.Timeout | undefined
  #watchedAtMs = 0
  #closing = false
  #asked = 0
  #looks = 0
  readonly #answers = new Map<number, (answer: WorkerAnswer) => void>()
  #changed: (() => void)[] = []

  constructor(options: SupervisorOptions) {
    this.#options = options
  }

  /**
   * Starts the workers; the first one resolves port 0 for the others.
   * @param waits The workers bind no port before `listen` is called.
   * @returns the ports, one for each `listen` entry. @throws GateError ERR_LISTEN when the first worker cannot listen.
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
   * Lets waiting workers listen as soon as `isTime` is true, in the same order as `open`.
   * @returns the ports. @throws GateError ERR_LISTEN; ERR_NOT_READY when the supervisor is closed before
   */
  async listen(isTime: () => boolean): Promise<readonly number[]> {
    await this.#until(
      () => this.#closing || isTime(),
      () => undefined,
    )
    for (const slot of this.#slots) {
      if (this.#closing) throw new GateError('ERR_NOT_READY', 'the gate is draining')
      slot.waits = false
      // The problem belongs to an older policy than the active one.
      slot.problem = undefined
      slot.send({ type: 'listen', ports: this.#ports })
      await this.#until(
        () => this.#closing || slot.listening,
        () => slot.problem,
      )
    }
    return this.#ports
  }

  /** Sends a command to every worker, and to every worker that starts later. */
  broadcast(command: WorkerCommand): void {
    if (command.type === 'policy') this.#forgetBefore(command.policy)
    if (!passing.has(command.type)) this.#replayed.set(kindOf(command), command)
    for (const slot of this.#slots) slot.send(command)
  }

  /** Forgets what concerns an older policy, and the changes of the data that this package contains. */
  #forgetBefore({ generation, patched = 0 }: PolicyPackage): void {
    const before = this.#replayed.get('policy')
    if (before?.type !== 'policy' || before.policy.generation !== generation) {
      this.#replayed.delete('callers-suspended')
      this.#runaways.forget()
    }
    for (const [kind, command] of this.#replayed) {
      if (command.type !== 'patch') continue
      if (command.generation !== generation || command.patch.number <= patched)
        this.#replayed.delete(kind)
    }
  }

  /**
   * Resolves once every worker decides with this change of the data, one that is being replaced as well.
   * @returns false when another policy is active by now
   */
  async allPatched(generation: number, number: number): Promise<boolean> {
    const isActive = (): boolean => {
      const active = this.#replayed.get('policy')
      return active?.type === 'policy' && active.policy.generation === generation
    }
    await this.#until(
      () =>
        this.#closing ||
        !isActive() ||
        this.#slots.every((slot) => slot.generation === generation && slot.patched >= number),
      () => undefined,
    )
    return isActive()
  }

  /** Number of workers; their indexes start at 0. */
  get size(): number {
    return this.#slots.length
  }

  /** Sends a question to one worker. @returns undefined when the worker does not answer in time */
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

  /** True when every worker has activated the policy of this generation. */
  allActive(generation: number): boolean {
    return this.#slots.length > 0 && this.#slots.every((slot) => slot.generation === generation)
  }

  get allListening(): boolean {
    return this.#slots.length > 0 && this.#slots.every((slot) => slot.listening)
  }

  /** True while the workers wait for `listen` to find that it is time. */
  get waiting(): boolean {
    return this.#slots.some((slot) => slot.waits)
  }

  /**
   * Resolves once every worker uses this configuration, or the supervisor is closing. A worker that is being replaced counts,
   * since its replacement starts with the newest configuration.
   */
  async allConfigured(generation: number): Promise<void> {
    await this.#until(
      () => this.#closing || this.#slots.every((slot) => slot.configGeneration >= generation),
      () => undefined,
    )
  }

  /**
   * Resolves once no worker reads an older table of the ledger. A dead worker reads none, and its replacement starts
   * with the newest; a stuck worker is replaced in time.
   */
  async readersOf(generation: number): Promise<void> {
    await this.#until(
      () => this.#slots.every((slot) => !slot.filled || slot.table >= generation),
      () => undefined,
    )
  }

  /**
   * Makes every worker cut the open exchanges that rows with these keys concern; the rows must be in the ledger and
   * published. Resolves once each worker has looked at all of them and `onCuts` was called with all that it has cut. A
   * worker that ends meanwhile has no open exchange left: those that it lost count as lost, not as cut.
   */
  async look(keys: Uint8Array | undefined): Promise<void> {
    const look = ++this.#looks
    const asked = this.#slots.filter((slot) => slot.filled)
    for (const slot of asked) slot.looks.add(look)
    this.broadcast({ type: 'rows', keys, sinceUs: monotonicUs(), look })
    await this.#until(
      () => asked.every((slot) => !slot.filled || !slot.looks.has(look)),
      () => undefined,
    )
  }

  status(): readonly object[] {
    return this.#slots.map((slot) => slot.status())
  }

  /** Number of open exchanges, by the last reports of the workers. */
  get live(): number {
    return this.#slots.reduce((sum, slot) => sum + slot.live, 0)
  }

  /** Resolves once every worker has drained or its time is over. From here on no worker is replaced. */
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
        slot.patched = report.patched
        break
      case 'policy-patched':
        if (slot.generation === report.generation) slot.patched = report.patched
        break
      case 'config-active':
        slot.configGeneration = report.generation
        break
      case 'ledger-read':
        slot.table = report.generation
        break
      case 'looked':
        slot.looks.delete(report.look)
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
        onKeysWanted(report.issuer, report.seen)
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
    // The worker could not bind its port. Terminate it; its replacement tries again until the port is free.
    if (this.#watch !== undefined && !slot.listening && !slot.waits) void slot.terminate()
  }

  /** The thread has ended: start another one in its slot. */
  #onExit(slot: WorkerSlot, died: LastEvaluation, listened: boolean): void {
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

  /** A worker died during an evaluation: its caller is refused for a while. */
  #recordDeath({ generation, caller }: LastEvaluation): void {
    const active = this.#replayed.get('policy')
    if (active?.type !== 'policy' || active.policy.generation !== generation) return
    const { log } = this.#options
    const { revision } = active.policy
    const { deaths, refusedMs } = this.#runaways.note(caller, monotonicUs())
    log.error(
      { revision, deaths, refused_ms: refusedMs },
      'an evaluation did not end and cost a worker; its caller is refused for a while',
    )
    const refused = this.#runaways.refusedCallers()
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

  /** Waits until a condition over the slots is true; checks it at each report and at least every 100 ms. */
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
