/**
 * The end of this turn of the event loop: after everything that had arrived when the turn began has been read. What is
 * written then is written together: a write that finds its reader asleep costs as much as the decision, and the first of
 * many has woken it for all.
 */
let due: (() => void)[] = []

/** Calls `task` at the end of this turn, in the order of the calls; what it throws ends the thread, not the others. */
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
