/**
 * Keeps the workers alive: starts them, remembers what each new one must be told, watches their pulse, replaces
 * one that stops answering, drains them all. Lives on the control thread.
 *
 * A runaway policy cannot be interrupted inside its thread, so a worker whose event loop has not turned for
 * `silentMs` of its own CPU time (see silence.ts), and in which no evaluation has ended meanwhile, is terminated: its own
 * exchanges are lost and counted, other workers' are not. For the caller in whose evaluation it died the policy is not
 * evaluated for a while, so that one caller cannot take worker after worker. Such deaths by three callers within
 * `suspendWindowMs` suspend the policy until another is active: then it is not one caller who makes it run away.
 */
import { Worker } from 'node:worker_threads'
import { callerName } from '../domain/caller.ts'
import { monotonicUs } from '../domain/clock.ts'
import { ThreadCpu } from '../domain/thread-cpu.ts'
import { type Code, GateError } from '../errors.ts'
import {
  pulse,
  type WorkerAnswer,
  type WorkerCommand,
  type WorkerQuestion,
  type WorkerReport,
  type WorkerStart,
} from '../messages.ts'
import { Silence, watchMs } from './silence.ts'

/** Until its first beat a worker is loading its modules, which a busy machine may take its time over. */
const startMs = 15_000
const answerMs = 2000
/** Callers, not deaths: what one caller can do must not be done to all others. */
const suspendAfter = 3
const suspendWindowMs = 60_000
/** How long a caller is refused after the first death, twice as long after each further one, up to the longest. */
const refusedMs = 60_000
const longestRefusedMs = 3_600_000
/** A worker that dies while starting is tried again at this pace instead of in a spin. */
const restartMs = 500

/** Not for a worker that starts later: it has the configuration of that moment, and nothing open. */
const passing = new Set<WorkerCommand['type']>(['drain', 'config', 'rows', 'question'])

type StartOf = (
  index: number,
  ports: readonly number[] | undefined,
  pulse: SharedArrayBuffer,
) => WorkerStart

export interface SupervisorOptions {
  readonly workers: number
  /** The workers bind no port before `listen`. */
  readonly waits: boolean
  readonly startOf: StartOf
  readonly log: Log
  readonly onKeysWanted: (issuer: string, kid: string | undefined) => void
  /** Open exchanges that rows have ended on one of the workers. */
  readonly onCuts: (byRow: ReadonlyMap<number, number>) => void
  readonly onRestart: () => void
}

interface Log {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** What was being evaluated when a worker died. */
interface Evaluated {
  /** Of the policy; 0 for none. */
  readonly generation: number
  readonly caller: string
}

/** A caller in whose evaluations workers died. */
interface Runaway {
  readonly deaths: number
  readonly diedAtUs: number
  readonly untilUs: number
}

interface WorkerSlot {
  readonly index: number
  worker: Worker | undefined
  pulse: SharedArrayBuffer
  lastBeat: number
  /** When it was started. */
  startedAt: number
  silence: Silence
  /** What its thread uses; undefined before it has said which it is, and where the machine does not say. */
  cpu: ThreadCpu | undefined
  /** When it was terminated. */
  killedIn: Evaluated | undefined
  /** It has not been told to listen; else whoever takes the slot binds at once. */
  waits: boolean
  listening: boolean
  generation: number
  /** Generation of the ledger's table that it reads; 0 before it reads any. */
  table: number
  revision: string | undefined
  configGeneration: number
  problem: string | undefined
  restarts: number
  lostExchanges: number
  drained: boolean
}

export class Supervisor {
  readonly #options: SupervisorOptions
  readonly #slots: WorkerSlot[] = []
  /** What a worker that starts late must be told, newest of each kind. */
  readonly #replayed = new Map<string, WorkerCommand>()
  /** By caller, under the active policy. */
  readonly #runaways = new Map<string, Runaway>()
  #ports: readonly number[] = []
  #watch: NodeJS.Timeout | undefined
  #watchedAt = 0
  #closing = false
  #asked = 0
  readonly #answers = new Map<number, (answer: WorkerAnswer) => void>()
  #changed: (() => void)[] = []

  constructor(options: SupervisorOptions) {
    this.#options = options
  }

  /**
   * Starts the workers; the first resolves port 0 for the others.
   * @returns the ports, one for each `listen` entry. @throws GateError ERR_LISTEN when the first cannot listen.
   */
  async open(ports: readonly number[]): Promise<readonly number[]> {
    const { workers, waits } = this.#options
    const up = (slot: WorkerSlot): boolean =>
      slot.listening || (waits && slot.configGeneration >= 0)
    this.#ports = ports
    for (let index = 0; index < workers; index++) {
      const slot = newSlot(index, waits)
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
    this.#watchedAt = performance.now()
    this.#watch = setInterval(() => this.#check(), watchMs)
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
      // Of a policy that came before the one that is active now.
      slot.problem = undefined
      slot.worker?.postMessage({ type: 'listen', ports: this.#ports } satisfies WorkerCommand)
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
      this.#runaways.clear()
    }
    for (const slot of this.#slots) slot.worker?.postMessage(command)
  }

  /** How many workers there are; they are numbered from 0. */
  get size(): number {
    return this.#slots.length
  }

  /** Asks one worker. @returns undefined when it does not answer in time */
  ask(index: number, question: WorkerQuestion): Promise<WorkerAnswer | undefined> {
    const worker = this.#slots[index]?.worker
    if (worker === undefined) return Promise.resolve(undefined)
    const number = ++this.#asked
    return new Promise((resolve) => {
      const finish = (answer: WorkerAnswer | undefined): void => {
        clearTimeout(timer)
        this.#answers.delete(number)
        resolve(answer)
      }
      const timer = setTimeout(finish, answerMs, undefined)
      this.#answers.set(number, finish)
      worker.postMessage({ type: 'question', number, question } satisfies WorkerCommand)
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
      () => this.#slots.every((slot) => slot.worker === undefined || slot.table >= generation),
      () => undefined,
    )
  }

  get suspended(): boolean {
    return this.#replayed.has('policy-suspended')
  }

  status(): readonly object[] {
    return this.#slots.map((slot) => ({
      worker: slot.index,
      listening: slot.listening,
      config_generation: slot.configGeneration,
      policy_generation: slot.generation,
      policy_revision: slot.revision ?? null,
      live_exchanges: Atomics.load(new Int32Array(slot.pulse), pulse.live),
      restarts: slot.restarts,
      lost_exchanges: slot.lostExchanges,
      problem: slot.problem ?? null,
    }))
  }

  get live(): number {
    return this.#slots.reduce(
      (sum, slot) => sum + Atomics.load(new Int32Array(slot.pulse), pulse.live),
      0,
    )
  }

  get restarts(): number {
    return this.#slots.reduce((sum, slot) => sum + slot.restarts, 0)
  }

  /** Drains every worker and ends the threads; a worker that does not answer is ended after the timeout. */
  async close(drainTimeoutMs: number): Promise<void> {
    if (this.#closing) return
    this.#closing = true
    clearInterval(this.#watch)
    this.broadcast({ type: 'drain', timeoutMs: drainTimeoutMs })
    const late = AbortSignal.timeout(drainTimeoutMs + 2000)
    await this.#until(
      () => late.aborted || this.#slots.every((slot) => slot.drained || slot.worker === undefined),
      () => undefined,
    )
    await Promise.all(this.#slots.map((slot) => slot.worker?.terminate()))
    for (const slot of this.#slots) slot.cpu?.close()
  }

  #start(slot: WorkerSlot): void {
    const ports = slot.waits ? undefined : this.#ports
    const start = this.#options.startOf(slot.index, ports, slot.pulse)
    const worker = new Worker(new URL('../worker/worker.ts', import.meta.url), {
      workerData: start,
      transferList: [start.log],
      name: `worker ${slot.index}`,
      // What an exchange allocates dies with it: with room for some thousands of them, few are ever copied.
      resourceLimits: { maxYoungGenerationSizeMb: 64 },
    })
    slot.worker = worker
    slot.lastBeat = -1
    slot.startedAt = performance.now()
    slot.problem = undefined
    for (const command of this.#replayed.values()) worker.postMessage(command)
    worker.on('message', (report: WorkerReport) => {
      if (slot.worker === worker) this.#onReport(slot, report)
    })
    worker.on('error', (error) => {
      slot.problem = error.message
      this.#options.log.error({ worker: slot.index, err: error }, 'a worker failed')
    })
    worker.on('exit', () => {
      if (slot.worker === worker) this.#onExit(slot)
      this.#notify()
    })
  }

  #onReport(slot: WorkerSlot, report: WorkerReport): void {
    const { log } = this.#options
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
        slot.problem = report.message
        log.error({ worker: slot.index, generation: report.generation }, report.message)
        break
      case 'answer':
        this.#answers.get(report.number)?.(report.answer)
        return
      case 'cuts':
        this.#options.onCuts(report.byRow)
        return
      case 'keys-wanted':
        this.#options.onKeysWanted(report.issuer, report.kid)
        return
      case 'failed':
        slot.problem = `${report.code} ${report.message}`
        log.error({ worker: slot.index, code: report.code, hint: report.hint }, report.message)
        // What it takes a slot for it cannot do: another tries, until whoever has the port is gone.
        if (this.#watch !== undefined && !slot.listening && !slot.waits)
          void slot.worker?.terminate()
        break
      case 'drained':
        slot.drained = true
    }
    this.#notify()
  }

  /** The worker is gone: count what went with it and put another in its slot. */
  #onExit(slot: WorkerSlot): void {
    const words = new Int32Array(slot.pulse)
    const evaluated = slot.killedIn ?? evaluatedBy(words)
    slot.killedIn = undefined
    slot.lostExchanges += words[pulse.live]!
    slot.worker = undefined
    const listened = slot.listening
    slot.listening = false
    if (this.#closing) return
    slot.restarts++
    slot.generation = 0
    slot.configGeneration = -1
    slot.table = 0
    slot.pulse = new SharedArrayBuffer(64)
    slot.cpu?.close()
    slot.cpu = undefined
    this.#options.onRestart()
    if (evaluated.generation !== 0) this.#recordDeath(evaluated)
    const again = (): void => {
      if (!this.#closing) this.#start(slot)
    }
    if (listened) again()
    else setTimeout(again, restartMs)
  }

  /** A death in the middle of an evaluation counts against its caller, those of several callers against the policy. */
  #recordDeath({ generation, caller }: Evaluated): void {
    const active = this.#replayed.get('policy')
    if (active?.type !== 'policy' || active.policy.generation !== generation) return
    const now = monotonicUs()
    for (const [name, { untilUs }] of this.#runaways)
      if (now - untilUs > longestRefusedMs * 1000) this.#runaways.delete(name)
    const deaths = (this.#runaways.get(caller)?.deaths ?? 0) + 1
    const forMs = Math.min(refusedMs * 2 ** (deaths - 1), longestRefusedMs)
    this.#runaways.set(caller, { deaths, diedAtUs: now, untilUs: now + forMs * 1000 })
    const { revision } = active.policy
    const recent = [...this.#runaways.values()].filter(
      ({ diedAtUs }) => now - diedAtUs < suspendWindowMs * 1000,
    )
    if (recent.length >= suspendAfter) {
      this.#options.log.error(
        { revision, callers: recent.length },
        'the policy ran away and is suspended',
      )
      this.broadcast({ type: 'policy-suspended', generation })
      return
    }
    this.#options.log.error(
      { revision, deaths, refused_ms: forMs },
      'the policy ran away for one caller, who is refused for a while',
    )
    const callers = new Map(Array.from(this.#runaways, ([name, { untilUs }]) => [name, untilUs]))
    this.broadcast({ type: 'callers-suspended', generation, callers })
  }

  #check(): void {
    const now = performance.now()
    const lateMs = now - this.#watchedAt - watchMs
    this.#watchedAt = now
    for (const slot of this.#slots) {
      if (slot.worker === undefined) continue
      const words = new Int32Array(slot.pulse)
      const beat = Atomics.load(words, pulse.beat)
      if (beat === 0) {
        // When this thread itself was held up, the workers may have been too: the time proves nothing then.
        if (lateMs > watchMs) slot.startedAt += lateMs
        if (now - slot.startedAt <= startMs) continue
      } else if (beat !== slot.lastBeat) {
        slot.lastBeat = beat
        slot.cpu ??= ThreadCpu.of(words[pulse.thread]!)
        slot.silence.broken(now, slot.cpu?.read())
        continue
      } else if (!slot.silence.tooLong(now, slot.cpu?.read())) continue
      this.#options.log.error({ worker: slot.index }, 'a worker stopped answering and is replaced')
      slot.startedAt = now
      slot.silence.broken(now, slot.cpu?.read())
      // Of now: once the evaluation is broken off, requests behind it may still come to theirs before the thread ends.
      slot.killedIn = evaluatedBy(words)
      void slot.worker.terminate()
    }
  }

  #notify(): void {
    for (const wake of this.#changed.splice(0)) wake()
  }

  /** Waits for a condition over the slots; re-checked at each report and at least every 100 ms. */
  async #until(done: () => boolean, problem: () => string | undefined): Promise<void> {
    while (!done()) {
      const trouble = problem()
      if (trouble !== undefined) throw problemOf(trouble)
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

function evaluatedBy(words: Int32Array): Evaluated {
  return {
    generation: words[pulse.evaluating]!,
    caller: callerName(words[pulse.caller]!, words[pulse.caller + 1]!),
  }
}

function newSlot(index: number, waits: boolean): WorkerSlot {
  return {
    index,
    waits,
    worker: undefined,
    pulse: new SharedArrayBuffer(64),
    lastBeat: -1,
    killedIn: undefined,
    startedAt: 0,
    silence: new Silence(),
    cpu: undefined,
    listening: false,
    generation: 0,
    table: 0,
    revision: undefined,
    configGeneration: -1,
    problem: undefined,
    restarts: 0,
    lostExchanges: 0,
    drained: false,
  }
}

function problemOf(trouble: string): GateError {
  const [code, ...rest] = trouble.split(' ')
  return code?.startsWith('ERR_')
    ? new GateError(code as Code, rest.join(' '))
    : new GateError('ERR_LISTEN', `a worker could not start: ${trouble}`)
}
