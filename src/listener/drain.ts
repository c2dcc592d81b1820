/**
 * The orderly end of a listener: clients are told to close their connections while the ports still accept; open
 * exchanges may end; only those that are still open at the deadline are cut.
 */

/** The actions of a drain on the ports. */
export interface Ports {
  /** Number of open exchanges and tunnels. */
  readonly open: () => number
  /** Closes the connections without an exchange. */
  closeIdle(): void
  /** Stops accepting connections. Resolves when the last connection is closed. */
  stopAccepting(): Promise<unknown>
  closeAll(): void
}

/** Time between two checks for open exchanges. The ports close after several checks in a row have found none. */
const lookMs = 10
const quietLooks = 10
/** Time for the connections that were accepted last, also after the deadline. */
const graceMs = 250

/** @param cutRest Called at the deadline when something is still open, to cut it. */
export async function drain(timeoutMs: number, ports: Ports, cutRest: () => void): Promise<void> {
  const startAt = performance.now()
  const endAt = startAt + timeoutMs
  // Under steady traffic there is always an open exchange, so this waits half of the time at most. The other half is
  // for the exchanges that are let in last.
  await quiet(ports, startAt + timeoutMs / 2)
  // Connections accepted just now may not have sent a request yet: they get `graceMs` at least.
  const closed = ports.stopAccepting()
  await quiet(ports, Math.max(endAt, performance.now() + graceMs))
  if (ports.open() > 0) {
    cutRest()
    // Waits until the answers and close frames of the exchanges that were cut are sent.
    await quiet(ports, performance.now() + graceMs)
  }
  ports.closeAll()
  await closed
}

/**
 * Resolves when nothing has been open for a moment, at the latest at `endAt`. Clients that send a request on an idle
 * connection meanwhile are told to close it. Connections that are idle after that are closed, so that few are closed in
 * the middle of a request.
 */
async function quiet(ports: Ports, endAt: number): Promise<void> {
  // Counts checks instead of time: a thread that was held up has not checked meanwhile.
  let looks = 0
  while (performance.now() < endAt && looks < quietLooks) {
    await new Promise((resolve) => setTimeout(resolve, lookMs))
    looks = ports.open() > 0 ? 0 : looks + 1
  }
  ports.closeIdle()
}
