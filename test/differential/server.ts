/**
 * Servers that people put behind a proxy, each over the same tree and each made to say which resource it took a target
 * for: `resource:/public/a`. What is not installed is absent, and said to be.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { until } from '../harness/wait.ts'

export interface DifferentialServer {
  readonly name: string
  readonly origin: string
  close(): Promise<void>
}

/** Starts one kind of server over the tree. Undefined: it is not installed here. */
export type StartServers = (tree: ServedTree) => Promise<readonly DifferentialServer[] | undefined>

/** The places that every server would serve: only the policy keeps them from callers. */
export function isDenied(resource: string): boolean {
  return /^\/+(?:secret|public\/+private)(?:\/|$)/.test(resource)
}

/** The tree on disk and a place for configurations. */
export class ServedTree {
  readonly folder = mkdtempSync(join(tmpdir(), 'dropgate-differential-'))
  readonly root = join(this.folder, 'root')

  constructor() {
    // A server that root starts reads the tree as another user.
    chmodSync(this.folder, 0o755)
    for (const place of [
      '/',
      '/public/',
      '/public/a/',
      '/public/private/',
      '/public/private/a/',
      '/secret/',
      '/secret/a/',
    ]) {
      mkdirSync(join(this.root, place), { recursive: true })
      for (const name of ['index.html', 'a.txt', 'x']) {
        writeFileSync(join(this.root, place, name), `resource:${place}${name}`)
      }
    }
  }

  write(name: string, text: string): string {
    const path = join(this.folder, name)
    writeFileSync(path, text)
    return path
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}

export function find(...names: string[]): string | undefined {
  const folders = [
    ...(process.env.PATH ?? '').split(':'),
    '/usr/sbin',
    '/usr/local/sbin',
    '/usr/local/go/bin',
  ]
  for (const name of names) {
    for (const folder of folders)
      if (folder !== '' && existsSync(join(folder, name))) return join(folder, name)
  }
  return undefined
}

/** Runs a program in the foreground and waits until each port answers. */
export async function run(
  command: string,
  args: readonly string[],
  named: readonly { readonly name: string; readonly port: number }[],
): Promise<readonly DifferentialServer[]> {
  // A process group of its own: Apache ends the whole group it is in.
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  const kill = (): boolean => child.kill('SIGKILL')
  process.once('exit', kill)
  child.once('exit', () => process.off('exit', kill))
  let said = ''
  child.stdout.on('data', (data) => {
    said += data
  })
  child.stderr.on('data', (data) => {
    said += data
  })
  for (const { name, port } of named) {
    await until(
      `${name} to listen`,
      () => {
        if (child.exitCode !== null) throw new Error(`${command} ended: ${said}`)
        return answers(port)
      },
      30_000,
    )
  }
  return named.map(({ name, port }) => ({
    name,
    origin: `http://127.0.0.1:${port}`,
    close: () => end(child),
  }))
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGTERM')
  await ended
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
}

/** Whether a program ends well with these arguments. */
export function succeeds(command: string, args: readonly string[], cwd: string): boolean {
  return spawnSync(command, args, { cwd, stdio: 'ignore' }).status === 0
}
