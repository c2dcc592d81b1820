/** The last deadline of a connection whose answer is sent but whose peer does not close it. */
import type { Duplex } from 'node:stream'

/** Destroys a socket that has not closed `ms` from now. */
export function destroyAfter(socket: Duplex, ms: number): void {
  const timer = setTimeout(() => socket.destroy(), ms)
  socket.once('close', () => clearTimeout(timer))
}
