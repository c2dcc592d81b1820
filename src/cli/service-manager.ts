/**
 * Tells systemd in which state this process is (`Type=notify`), where NOTIFY_SOCKET names its socket. Node.js has no datagram
 * sockets of this family, so systemd's own program `systemd-notify` sends the message. The gate neither waits for it nor
 * depends on it.
 */
import { spawn } from 'node:child_process'
import type { Log } from '../domain/log.ts'

/** Longest time in ms for one message. */
const sendMs = 5000

export class ServiceManager {
  readonly #env: NodeJS.ProcessEnv
  readonly #log: Pick<Log, 'warn'>
  /** One message after the other: the last one is what systemd believes. */
  #sending: Promise<void> = Promise.resolve()
  #warned = false

  constructor(env: NodeJS.ProcessEnv, log: Pick<Log, 'warn'>) {
    this.#env = env
    this.#log = log
  }

  ready(status: string): void {
    this.#tell('READY=1', `STATUS=${status}`)
  }

  reloading(): void {
    // systemd wants the time for `Type=notify-reload`, by the clock that Node.js reads here.
    const us = process.hrtime.bigint() / 1000n
    this.#tell('RELOADING=1', `MONOTONIC_USEC=${us}`, 'STATUS=reloading')
  }

  stopping(status: string): void {
    this.#tell('STOPPING=1', `STATUS=${status}`)
  }

  #tell(...message: readonly string[]): void {
    const { NOTIFY_SOCKET: socket } = this.#env
    if (socket === undefined || socket === '') return
    this.#sending = this.#sending.then(() => this.#send(message))
  }

  #send(message: readonly string[]): Promise<void> {
    return new Promise((resolve) => {
      const sender = spawn('systemd-notify', message, {
        env: this.#env,
        stdio: 'ignore',
        timeout: sendMs,
      })
      sender.once('error', (error) => this.#warn(error.message))
      sender.once('close', (exit) => {
        if (exit !== 0) this.#warn(`systemd-notify ended with ${exit}`)
        resolve()
      })
    })
  }

  #warn(reason: string): void {
    if (this.#warned) return
    this.#warned = true
    this.#log.warn(
      { reason, hint: 'install systemd-notify, or use Type=exec in the unit' },
      'systemd cannot be told in which state the gate is',
    )
  }
}
