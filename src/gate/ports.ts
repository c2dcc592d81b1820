/**
 * Checks that the ports are free before the first worker binds them: with `reusePort`, a second gate would share them
 * without an error.
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
