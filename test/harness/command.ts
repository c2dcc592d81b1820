/** A command of dropgate as a process: what it printed, and how it ended. */
import { spawn } from 'node:child_process'
import { text as readStream } from 'node:stream/consumers'

export interface Ran {
  readonly exit: number | null
  readonly out: string
  readonly err: string
}

/** @param input What stands on its standard input. */
export async function runCommand(args: readonly string[], input = ''): Promise<Ran> {
  const child = spawn(process.execPath, ['src/main.ts', ...args])
  const exited = new Promise<number | null>((resolve) => child.once('close', resolve))
  child.stdin.end(input)
  const [out, err] = await Promise.all([readStream(child.stdout), readStream(child.stderr)])
  return { exit: await exited, out, err }
}
