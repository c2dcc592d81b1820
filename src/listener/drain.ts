/**
 * The end of a listener: clients are told to leave while the ports still accept, what is under way may end, and only what
 * is left at the deadline is cut.
 */

/** What a drain does to the ports. */
export interface Ports {
  /** Exchanges and tunnels that are open. */
  readonly open: () => number
  /** Closes the connections on which nothing is under way. */
  closeIdle(): void
  /** Stops accepting. Resolves when the last connection is closed. */
  stopAccepting(): Promise<unknown>
  closeAll(): void
}

/** How often it is looked whether something is open, and how many looks in a row must find nothing before the ports close. */
const lookMs = 10
const quietLooks = 10
/** Time for the connections accepted last, also after the deadline. */
const graceMs = 250

/** @param cutRest Called at the deadline if something is still open: cuts it. */
export async function drain(timeoutMs: number, ports: Ports, cutRest: () => void): Promise<void> {
  const startAt = performance.now()
  const endAt = startAt + timeoutMs
  // Under steady traffic it is never quiet: half of the time is kept for what is let in last.
  await quiet(ports, startAt + timeoutMs / 2)
  // Connections accepted just now may not have sent a request yet: they get `graceMs` at least.
  const closed = ports.stopAccepting()
  await quiet(ports, Math.max(endAt, performance.now() + graceMs))
  if (ports.open() > 0) {
    cutRest()
    // The answers and close frames of what was cut are sent.
    await quiet(ports, performance.now() + graceMs)
  }
  ports.closeAll()
  await closed
}

/**
 * Resolves when nothing has been open for a moment, at the latest at `endAt`. Clients that come back meanwhile on an idle
 * connection are told to leave; what is idle after that is closed, so rarely in the middle of a request.
 */
async function quiet(ports: Ports, endAt: number): Promise<void> {
  // Looks are counted and not time: a thread that is late has not looked meanwhile.
  let looks = 0
  while (performance.now() < endAt && looks < quietLooks) {
    await new Promise((resolve) => setTimeout(resolve, lookMs))
    looks = ports.open() > 0 ? 0 : looks + 1
  }
  ports.closeIdle()
}
