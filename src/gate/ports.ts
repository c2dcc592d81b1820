/** Whether the ports are free, asked before the first worker binds: with `reusePort` a second gate would share them unseen. */
import { createServer } from 'node:net'
import type { GateConfig } from '../config/options.ts'
import { GateError } from '../errors.ts'

/**
 * @returns whether a port is another gate's, to be taken over once this one is ready
 * @throws GateError ERR_LISTEN where one is in use and `takeover` does not say so
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

/** Binds the port alone for a moment. @throws GateError ERR_LISTEN when it cannot be bound for another reason */
function isFree(host: string, port: number): Promise<boolean> {
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
