/** Folder: a place for files that is made where it is missing, with those above it. */
import { existsSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'

/**
 * `mkdir` with `recursive` goes round for ever, and nothing ends the thread it does that on, where a file system says
 * ENOENT of a folder whose parent is there (/proc).
 */
export function makeFolder(path: string): void {
  if (existsSync(path)) return
  makeFolder(dirname(path))
  try {
    mkdirSync(path)
  } catch (error) {
    // Somebody else was faster.
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}
