/**
 * Runs tasks at the end of the current turn of the event loop, after all data that arrived before has been read.
 * Writes are collected until then: a write that has to wake its receiving process costs as much as a decision, and
 * the first of several writes wakes it for all.
 */
let due: (() => void)[] = []
let last: (() => void)[] = []

/**
 * Calls `task` at the end of this turn, in the order of the calls. An exception ends the thread but does not stop the
 * other tasks.
 */
export function atEndOfTurn(task: () => void): void {
  if (due.length + last.length === 0) setImmediate(run)
  due.push(task)
}

/** Calls `task` at the end of this turn as well, but after the writes: for work that no client and no upstream waits for. */
export function afterWrites(task: () => void): void {
  if (due.length + last.length === 0) setImmediate(run)
  last.push(task)
}

function run(): void {
  const tasks = last.length === 0 ? due : due.concat(last)
  due = []
  last = []
  for (const task of tasks) {
    try {
      task()
    } catch (error) {
      queueMicrotask(() => {
        throw error
      })
    }
  }
}
