/**
 * All tests of the feed and the store on each major version of PostgreSQL that the README promises. `MAJORS` may be given
 * (`15,17`).
 */
import { spawn } from 'node:child_process'
import { globSync } from 'node:fs'
import { type Major, majors, nativeOf } from '../harness/versions.ts'

const wanted = process.env.MAJORS?.split(',').map(Number) ?? majors
// All but the file that chooses its version itself.
const files = globSync('test/{feed,store}/*.test.ts')
  .filter((file) => !file.endsWith('postgres-15.test.ts'))
  .sort()
console.log(`versions: ${files.length} files on PostgreSQL ${wanted.join(', ')}`)
let failed = false
for (const major of wanted) {
  const startedAt = performance.now()
  const env = { ...process.env, SETTINGS: 'all', POSTGRES_NATIVE: nativeOf(major as Major) }
  const run = spawn(process.execPath, ['test/harness/run.ts', ...files], { env })
  let text = ''
  for (const stream of [run.stdout, run.stderr]) {
    stream.setEncoding('utf8').on('data', (data) => {
      text += data
    })
  }
  const exit = await new Promise((resolve) => run.once('close', resolve))
  const seconds = Math.round((performance.now() - startedAt) / 1000)
  const counted = text.trimEnd().split('\n').at(-1)
  console.log(`  PostgreSQL ${major}: ${counted}, ${seconds} s`)
  if (exit === 0) continue
  failed = true
  console.log(text.replace(/^ *✓.*\n/gm, '').replaceAll(/^/gm, '    '))
}
process.exitCode = failed ? 1 : 0
