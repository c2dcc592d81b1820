/**
 * Runs tasks at the end of the current turn of the event loop, after all data that arrived before has been read.
 * Writes are collected until then: a write that has to wake its receiving process costs as much as a decision, and
 * the first of several writes wakes it for all.
 */
let due: (() => void)[] = []

/**
 * Calls `task` at the end of this turn, in the order of the calls. An exception ends the thread but does not stop the
 * other tasks.
 */
export function atEndOfTurn(task: () => void): void {
  if (due.length === 0) setImmediate(run)
  due.push(task)
}

function run(): void {
  const tasks = due
  due = []
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
