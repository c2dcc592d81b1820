/** What the tries of real clients share: folders, programs, and the gate that they go through. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text as readText } from 'node:stream/consumers'

/** The gate, as a client sees it. */
export interface Entrance {
  /** `http://127.0.0.1:PORT` */
  readonly origin: string
  token(subject: string): Promise<string>
  /** Returns once the row is there. */
  revoke(subject: string): Promise<void>
}

/** One client and the app that it talks to. */
export interface Client {
  /** Of its route: `/NAME`. */
  readonly name: string
  /** Where its app listens, from now on. */
  upstream(): Promise<string>
  /** Options of its route. */
  readonly route: Readonly<Record<string, unknown>>
  /** Throws when something does not work; @returns what it did */
  run(entrance: Entrance): Promise<string>
  close(): void
}

export function demand(so: boolean, what: string): asserts so {
  if (!so) throw new Error(what)
}

export function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-clients-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  return folder
}

export async function listen(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

export function installed(program: string): boolean {
  return spawnSync(program, ['--version']).status === 0
}

export interface Ended {
  readonly status: number | null
  readonly out: string
  readonly err: string
}

/** A program to its end, with nothing of this user's settings. */
export async function run(
  command: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>> = {},
  input: string | Buffer = '',
): Promise<Ended> {
  const [program = '', ...args] = command
  const clean = { PATH: process.env.PATH, HOME: cwd, LANG: 'C', ...env }
  const child = spawn(program, args, { cwd, env: clean })
  const status = new Promise<number | null>((resolve, reject) =>
    child.once('error', reject).once('close', resolve),
  )
  child.stdin.on('error', () => {}).end(input)
  const [out, err] = await Promise.all([readText(child.stdout), readText(child.stderr)])
  return { status: await status, out, err }
}

/** A program that must end well; @returns what it printed */
export async function runWell(...args: Parameters<typeof run>): Promise<string> {
  const { status, out, err } = await run(...args)
  if (status !== 0) throw new Error(`${args[0].join(' ')} ended with ${status}: ${err || out}`)
  return out
}
