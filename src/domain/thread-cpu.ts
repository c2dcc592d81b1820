/**
 * CPU time of threads. A thread that is late is at fault only if it had the CPU; if the machine gave the CPU to others,
 * it is not. The wall clock cannot tell these two apart.
 */
import { closeSync, openSync, readlinkSync, readSync } from 'node:fs'

/** CPU time of this thread in ms. */
export function ownCpuMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1000
}

/**
 * The operating system's id of this thread, for `ThreadCpu.of` in another thread; 0 where it is not available (only
 * Linux has it).
 */
export function ownThreadId(): number {
  try {
    return Number(/\d+$/.exec(readlinkSync('/proc/thread-self'))?.[0] ?? 0)
  } catch {
    return 0
  }
}

export interface ThreadUse {
  readonly cpuMs: number
  /** True when the thread runs or waits for the CPU; false when it sleeps until something else is done. */
  readonly runnable: boolean
}

/**
 * Reads the CPU time of another thread of this process without that thread's help: also of a thread that never returns
 * to its event loop or is stuck in a system call.
 */
export class ThreadCpu {
  readonly #fd: number
  readonly #text = Buffer.alloc(1024)

  private constructor(fd: number) {
    this.#fd = fd
  }

  /** @param id See `ownThreadId`. @returns undefined when the CPU time cannot be read */
  static of(id: number): ThreadCpu | undefined {
    if (id === 0) return undefined
    try {
      // The open file belongs to this thread: if its id is given to a later thread, that one is not read by mistake.
      const thread = new ThreadCpu(openSync(`/proc/self/task/${id}/stat`, 'r'))
      // A thread that has loaded its modules has used CPU time. If the value is still 0, this machine does not count
      // it.
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
      // After the name, which may contain anything: state, then 10 numbers, then utime and stime (proc_pid_stat(5)).
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
