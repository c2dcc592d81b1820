/** The programs that try `deploy/`, some of which only Debian has. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { basename, join } from 'node:path'
import { onPath } from '../smoke.ts'

/** @returns the sentence to say when some of these programs are not installed */
export function missing(what: string, programs: readonly string[]): string | undefined {
  const absent = programs.filter((program) => onPath(program) === undefined)
  return absent.length === 0
    ? undefined
    : `not tried: ${what}: ${absent.join(', ')} ${absent.length === 1 ? 'is' : 'are'} not installed`
}

/**
 * Runs a part of the check in a network of its own, so that the ports of this machine are free for other things. The part
 * prints what it has found.
 */
export function apart(script: string, args: readonly string[]): void {
  const { status } = spawnSync(
    'bwrap',
    [
      '--dev-bind',
      '/',
      '/',
      '--unshare-net',
      '--die-with-parent',
      process.execPath,
      script,
      ...args,
    ],
    { stdio: 'inherit' },
  )
  if (status !== 0) throw new Error(`${script} has failed`)
}

/**
 * Builds a program by Go in .tools/bin, once.
 * @param what It is needed for.
 * @param program Package and version.
 * @returns its path; undefined where it cannot be built, which is said
 */
export function builtByGo(
  what: string,
  program: string,
  say: (text: string) => void,
): string | undefined {
  const name = basename(program.split('@', 1)[0]!)
  const folder = join(import.meta.dirname, '../../.tools/bin')
  const built = join(folder, name)
  if (existsSync(built)) return built
  const absent = missing(what, ['go'])
  if (absent !== undefined) {
    say(absent)
    return undefined
  }
  say(`building ${program}: some minutes, once`)
  const env = { ...process.env, GOBIN: folder, GOFLAGS: '-buildvcs=false' }
  const done = spawnSync('go', ['install', program], { env, encoding: 'utf8' })
  if (done.status === 0) return built
  say(`not tried: ${what}: ${name} cannot be built: ${done.stderr.trim().split('\n').at(-1)}`)
  return undefined
}
