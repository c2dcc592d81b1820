/**
 * Loaded before the program (`--import`): holds it where it begins to load what `serve` needs, until the file `go` is in the
 * folder $FLAGS, and says so by the file `loading`.
 */
import { existsSync, writeFileSync } from 'node:fs'
import { registerHooks } from 'node:module'
import { join } from 'node:path'

const flags = process.env.FLAGS!
const word = new Int32Array(new SharedArrayBuffer(4))

registerHooks({
  load(url, context, next) {
    if (/\/cli\/serve\.[jt]s$/.test(url)) {
      writeFileSync(join(flags, 'loading'), '')
      while (!existsSync(join(flags, 'go'))) Atomics.wait(word, 0, 0, 5)
    }
    return next(url, context)
  },
})
