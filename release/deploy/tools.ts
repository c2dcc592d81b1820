/** The programs that try `deploy/`, some of which only Debian has. */
import { spawnSync } from 'node:child_process'
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
