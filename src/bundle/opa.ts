/**
 * Finds the `opa` tool: in `$OPA`, in `.tools/bin`, on PATH; else builds the pinned version with `go install` into
 * `.tools/bin`. Only tests and `make bundle` need opa; a running gate never does.
 */
import { type SpawnSyncReturns, spawn, spawnSync } from 'node:child_process'
import { accessSync, constants, mkdirSync } from 'node:fs'
import { delimiter, join, resolve } from 'node:path'
import { text as readStream } from 'node:stream/consumers'
import { GateError } from '../errors.ts'

/** The version that is installed when no opa is found; policies are built and tested with it. */
export const opaVersion = 'v1.22.2'
/**
 * The oldest accepted version. In older ones, a crafted request path could inject Rego into an opa server
 * (CVE-2025-46569).
 */
const oldest = [1, 4]

/** @param root Project folder, which contains `.tools`. @throws GateError ERR_OPA */
export function findOpa(root: string): string {
  const named = process.env.OPA
  if (named !== undefined && named !== '')
    return checkVersion(named.includes('/') ? resolve(named) : named)
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '')
  const own = join(root, '.tools', 'bin')
  for (const folder of [own, ...folders]) {
    const path = resolve(folder, 'opa')
    if (isExecutable(path)) return checkVersion(path)
  }
  install(own)
  return checkVersion(join(own, 'opa'))
}

function install(folder: string): void {
  mkdirSync(folder, { recursive: true })
  process.stderr.write(
    `opa was not found: building ${opaVersion} with go; this takes a few minutes\n`,
  )
  const done = spawnSync('go', ['install', `github.com/open-policy-agent/opa@${opaVersion}`], {
    env: { ...process.env, GOBIN: folder, GOFLAGS: '-mod=mod' },
    cwd: folder,
    encoding: 'utf8',
  })
  if (done.status === 0) return
  throw new GateError('ERR_OPA', 'opa was not found and could not be installed', {
    cause: done.error ?? done.stderr,
    hint: `install Go, or put opa ${opaVersion} on PATH, or set OPA to its path`,
  })
}

function checkVersion(path: string): string {
  const done = spawnSync(path, ['version'], { encoding: 'utf8' })
  const version = /^Version: (\d+)\.(\d+)/m.exec(done.stdout ?? '')
  if (version === null)
    throw new GateError('ERR_OPA', `${path} is not the opa tool`, {
      cause: done.error ?? done.stderr,
    })
  const [major, minor] = [Number(version[1]), Number(version[2])]
  if (major < oldest[0]! || (major === oldest[0] && minor < oldest[1]!)) {
    throw new GateError('ERR_OPA', `opa ${major}.${minor} at ${path} is too old`, {
      hint: `use opa ${opaVersion}`,
    })
  }
  return path
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/**
 * @param cwd Working directory for opa; that of this process by default, so that both resolve relative paths alike.
 * @returns What opa printed to standard output.
 * @throws GateError ERR_OPA with all that opa printed.
 */
export function runOpa(opa: string, args: readonly string[], cwd?: string): string {
  const done = spawnSync(opa, args, { cwd, encoding: 'utf8', maxBuffer: 64 << 20 })
  if (done.status === 0) return done.stdout
  throw failure(args, done)
}

/** What an opa command printed, and whether it ended with status 0. */
export interface OpaAnswer {
  readonly ok: boolean
  readonly out: string
  readonly err: string
}

/** Runs opa without waiting in this thread, so that several of its commands run beside each other. */
export async function askOpa(
  opa: string,
  args: readonly string[],
  cwd?: string,
): Promise<OpaAnswer> {
  const child = spawn(opa, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  const [status, out, err] = await Promise.all([
    ended,
    readStream(child.stdout),
    readStream(child.stderr),
  ])
  return { ok: status === 0, out, err }
}

function failure(args: readonly string[], done: SpawnSyncReturns<string>): GateError {
  const output = `${done.stdout ?? ''}${done.stderr ?? ''}`.trim()
  return new GateError('ERR_OPA', `opa ${args[0]} failed:\n${output || String(done.error)}`)
}
