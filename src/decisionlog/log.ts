/**
 * Room: decisionlog. In: one line for each decision, from every worker. Out: the sink. Never does: make a request
 * wait, lose a line without counting it. This class runs on the control thread: it starts the log thread and creates
 * a port for each worker.
 */
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import type { Log } from '../domain/log.ts'
import { threadFile } from '../domain/thread-file.ts'
import { GateError } from '../errors.ts'
import type { LogCommand, LogReport } from './log-thread.ts'
import { nameOf, type SinkConfig } from './sink.ts'

export interface DecisionLogOptions {
  readonly sink: SinkConfig
  readonly log: Pick<Log, 'error'>
}

/**
 * Longest time in ms for the thread to load and open its sink. Loading takes seconds on a busy machine; after this
 * time the thread counts as stuck.
 */
const openMs = 20_000
const closeMs = 5000
/** Longest time in ms for the thread to end. A thread that is stuck in a system call does not end. */
const endMs = 1000

export class DecisionLog {
  readonly #options: DecisionLogOptions
  #thread: Worker | undefined
  #lost = 0
  #problem: string | undefined

  constructor(options: DecisionLogOptions) {
    this.#options = options
  }

  /** @throws GateError ERR_CONFIG_FILE */
  async open(): Promise<void> {
    const thread = new Worker(threadFile('./log-thread', import.meta.url), {
      workerData: this.#options.sink,
      name: 'log',
    })
    this.#thread = thread
    let timer: NodeJS.Timeout | undefined
    try {
      await new Promise<void>((resolve, reject) => {
        thread.on('message', (report: LogReport) => {
          if (report.type === 'open') resolve()
          else if (report.type === 'failed') {
            const error = GateError.from(report.error)
            reject(error)
            this.#note(error.message, report.lost)
          }
        })
        thread.once('error', (error) => {
          reject(error)
          this.#note(error.message, 0)
        })
        timer = setTimeout(() => reject(this.#late()), openMs)
      })
    } catch (error) {
      // No line was written yet, so end the thread at once: it may be stuck and never receive a close command.
      this.#thread = undefined
      void thread.terminate()
      throw error
    } finally {
      clearTimeout(timer)
    }
  }

  #late(): GateError {
    const name = nameOf(this.#options.sink)
    return new GateError('ERR_CONFIG_FILE', `${name} was not open after ${openMs / 1000} s`, {
      hint: 'check the file system of this file: it does not respond',
    })
  }

  /** Creates a port for one worker; a replaced worker gets a new one. */
  port(): MessagePort {
    const { port1, port2 } = new MessageChannel()
    const command: LogCommand = { type: 'port', port: port2 }
    this.#thread!.postMessage(command, [port2])
    return port1
  }

  status(): { readonly lost: number; readonly problem: string | null } {
    return { lost: this.#lost, problem: this.#problem ?? null }
  }

  /** Writes all lines that the thread has received, then ends the thread. */
  async close(): Promise<void> {
    const thread = this.#thread
    if (thread === undefined) return
    this.#thread = undefined
    const ended = new Promise<void>((resolve) => thread.once('exit', () => resolve()))
    const command: LogCommand = { type: 'close' }
    thread.postMessage(command)
    const timer = setTimeout(() => void thread.terminate(), closeMs)
    const late = new Promise<void>((resolve) => setTimeout(resolve, closeMs + endMs).unref())
    await Promise.race([ended, late])
    clearTimeout(timer)
  }

  #note(message: string, lost: number): void {
    this.#lost += lost
    if (message !== this.#problem)
      this.#options.log.error({ lost }, `the decision log cannot be written: ${message}`)
    this.#problem = message
  }
}
