/**
 * Which tests `make test-fast` runs: those that start nothing beside themselves. Found from what each file loads, so a new
 * test is in or out by what it needs, and no list has to be kept.
 */
import { globSync } from 'node:fs'
import { importsOf, loadedWith } from './imports.ts'

/** A database, a whole gate, `opa`. */
const heavy = ['test/harness/postgres.ts', 'src/gate/gate.ts', 'src/bundle/opa.ts']
/** In a test or a harness: it starts processes, or threads by the dozen. */
const starters = new Set(['node:child_process', 'node:worker_threads'])

export function fastTests(): readonly string[] {
  return globSync('test/**/*.test.ts')
    .sort()
    .filter((file) => {
      const loaded = loadedWith(file)
      if (heavy.some((each) => loaded.has(each))) return false
      const ours = [...loaded].filter((each) => each.startsWith('test/'))
      return !ours.some((each) => importsOf(each).some((to) => starters.has(to)))
    })
}
