/**
 * Folder: a directory that is created, with its parents, if it is missing.
 */
import { existsSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'

/**
 * Creates a folder, one level at a time. `mkdir` with `recursive` loops for ever, in a way that cannot be stopped, on
 * a file system that reports ENOENT for a new folder whose parent exists (/proc).
 */
export function makeFolder(path: string): void {
  if (existsSync(path)) return
  makeFolder(dirname(path))
  try {
    mkdirSync(path)
  } catch (error) {
    // Another process created it in the meantime.
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}
