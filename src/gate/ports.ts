/**
 * Checks that the ports are free before the first worker binds them: with `reusePort`, a second gate would share them
 * without an error. A gate that waits to take them over looks again and again, since the other one may leave before.
 */
import { createServer } from 'node:net'
import type { GateConfig } from '../config/options.ts'
import { GateError } from '../errors.ts'

/**
 * @returns whether another gate holds a port that this gate is to take over
 * @throws GateError ERR_LISTEN when a port is in use and `takeover` is not set for it
 */
export async function findTakenPorts(
  listen: GateConfig['listen'],
  reusePort: boolean,
): Promise<boolean> {
  let taken = false
  for (const { host, port, takeover } of listen) {
    if (port === 0 || (await isFree(host, port))) continue
    if (!takeover || !reusePort) {
      throw new GateError('ERR_LISTEN', `cannot listen on ${host}:${port}: the port is in use`, {
        hint: 'another gate or program listens there; stop it or change listen.port',
      })
    }
    taken = true
  }
  return taken
}

const lookMs = 1000
/** A gate with one worker leaves its port for a moment while the worker is replaced: this many looks find it free again. */
const looksUntilLeft = 3

/** Watches ports that another gate holds. */
export class TakenPorts {
  readonly #listen: GateConfig['listen']
  #free = 0
  #closed = false
  #timer: NodeJS.Timeout | undefined

  constructor(listen: GateConfig['listen']) {
    this.#listen = listen
  }

  open(): void {
    this.#timer = setTimeout(() => void this.#look(), lookMs)
  }

  /** True when the other gate is gone, and clients get no answer there. */
  get left(): boolean {
    return this.#free >= looksUntilLeft
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
  }

  async #look(): Promise<void> {
    // What cannot be tried is not free: the binding will say why.
    const taken = await findTakenPorts(this.#listen, true).catch(() => true)
    this.#free = taken ? 0 : this.#free + 1
    if (!this.#closed && !this.left) this.open()
  }
}

/** Tries whether a port is free: binds it alone for a moment. @throws GateError ERR_LISTEN when it cannot be bound for another reason */
export function isFree(host: string, port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(false)
      else {
        reject(
          new GateError('ERR_LISTEN', `cannot listen on ${host}:${port}: ${error.code}`, {
            cause: error,
            hint: 'change listen.host or listen.port',
          }),
        )
      }
    })
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(true)))
  })
}
