/**
 * How much of the CPU a thread has had. What a thread has not done although it had the time is its fault; what it has not
 * done because the machine gave the time to others is not, and a wall clock cannot tell the two apart.
 */
import { closeSync, openSync, readlinkSync, readSync } from 'node:fs'

/** CPU time of this thread in ms. */
export function ownCpuMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1000
}

/** What the machine calls this thread, for `ThreadCpu.of` in another one; 0 where it does not say (Linux does). */
export function ownThreadId(): number {
  try {
    return Number(/\d+$/.exec(readlinkSync('/proc/thread-self'))?.[0] ?? 0)
  } catch {
    return 0
  }
}

export interface ThreadUse {
  readonly cpuMs: number
  /** It runs, or would run if the machine let it; else it sleeps, as long as what it waits for takes. */
  readonly runnable: boolean
}

/**
 * InputUsage another thread of this process without its help: one that never gives its event loop a turn, or is stuck in a
 * system call, is read as well.
 */
export class ThreadCpu {
  readonly #fd: number
  readonly #text = Buffer.alloc(1024)

  private constructor(fd: number) {
    this.#fd = fd
  }

  /** @param id See `ownThreadId`. @returns undefined where there is nothing to go by */
  static of(id: number): ThreadCpu | undefined {
    if (id === 0) return undefined
    try {
      // Stays with the thread: another one that is given the number later is not read in its place.
      const thread = new ThreadCpu(openSync(`/proc/self/task/${id}/stat`, 'r'))
      // It has loaded its modules: where that cost nothing, nothing is counted.
      if ((thread.read()?.cpuMs ?? 0) > 0) return thread
      thread.close()
    } catch {}
    return undefined
  }

  /** @returns undefined when the thread has ended */
  read(): ThreadUse | undefined {
    try {
      const length = readSync(this.#fd, this.#text, 0, this.#text.length, 0)
      const text = this.#text.toString('latin1', 0, length)
      // Behind the name, which may contain anything: state, then 10 numbers, then utime and stime (proc_pid_stat(5)).
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
      const ticks = Number(fields[11]) + Number(fields[12])
      return Number.isNaN(ticks)
        ? undefined
        : { cpuMs: ticks * tickMs, runnable: fields[0] === 'R' }
    } catch {
      return undefined
    }
  }

  close(): void {
    closeSync(this.#fd)
  }
}

/** USER_HZ is 100 wherever Node runs on Linux. */
const tickMs = 10
