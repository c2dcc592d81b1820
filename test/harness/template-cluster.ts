/**
 * A cluster as its first start leaves it, kept in the checkout: setting one up (initdb, tables, logins) costs five times
 * what copying one costs, and most test files need one.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs'
import { join } from 'node:path'

const kept = join(process.cwd(), '.tools', 'clusters')

/**
 * @param native Folder of PostgreSQL's programs, undefined for those of the npm package.
 * @returns the folder of the cluster that these programs and the sources of now make; it may not be there yet
 */
function templateOf(native: string | undefined): string {
  const digest = createHash('sha256').update(native ?? '')
  for (const path of ['src/embedded', 'src/store', 'package-lock.json']) hashOf(path, digest)
  return join(kept, digest.digest('hex').slice(0, 16))
}

function hashOf(path: string, digest: ReturnType<typeof createHash>): void {
  if (!statSync(path).isDirectory()) digest.update(path).update(readFileSync(path))
  else for (const name of readdirSync(path).sort()) hashOf(join(path, name), digest)
}

/** Fills an empty folder with the kept cluster. @returns false where none is kept yet */
export function copyTemplate(native: string | undefined, directory: string): boolean {
  const template = templateOf(native)
  if (!existsSync(template)) return false
  copy(`${template}/.`, directory)
  return true
}

/** Keeps a cluster that has been stopped in order. Of several test files that do so at the same time the first one counts. */
export function keepTemplate(native: string | undefined, directory: string): void {
  const template = templateOf(native)
  mkdirSync(kept, { recursive: true })
  const half = `${template}.${process.pid}`
  copy(directory, half)
  try {
    renameSync(half, template)
  } catch {
    rmSync(half, { recursive: true, force: true })
  }
}

/** With owners and modes: the server refuses a folder that is not its own. */
function copy(from: string, to: string): void {
  const { status, stderr } = spawnSync('cp', ['-a', '--reflink=auto', from, to], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`the cluster cannot be copied: ${stderr}`)
}
