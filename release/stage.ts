/**
 * Makes the npm package of this checkout: compiles `src/`, stages what the package holds, and packs it.
 *
 * It is not what `npm pack` would make of the checkout: Node.js runs no TypeScript below `node_modules`, the checkout's own
 * Node.js and PostgreSQL are not for those who install dropgate, and everybody gets the versions of all packages below it
 * that were tested. The package carries them: npm keeps to a shrinkwrap only where the registry says that there is one,
 * which not every mirror does, and other installers not at all. The shrinkwrap says which they are, with their digests.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')

/** Copied as they are, to the same place. */
const carried = [
  ...['README.md', 'LICENSE', 'CHANGELOG.md', 'SECURITY.md'],
  ...['bin/dropgate.js', 'bin/node-version.cjs', 'dropgate.schema.json', 'schemas'],
  // What the demo runs, and what it invites to change.
  ...['dropgate.yaml', 'policies', 'bundles/gate.tar.gz'],
]

type Versions = Readonly<Record<string, string>>

/** What the package has in common with the checkout. */
interface Shared {
  readonly name: string
  readonly version: string
  readonly license: string
  readonly engines: Versions
  readonly dependencies: Versions
}

interface Checkout extends Shared {
  readonly description: string
  readonly type: string
  /** PostgreSQL, for each platform. */
  readonly optionalDependencies: Versions
}

interface Lock {
  /** By path, from the folder of the checkout; '' is the checkout itself. */
  readonly packages: Readonly<Record<string, object & { readonly dev?: boolean }>>
}

export interface Packed {
  readonly name: string
  readonly version: string
  /** The folder that was packed. */
  readonly stage: string
  /** The `.tgz`. */
  readonly file: string
  readonly files: number
  readonly packedBytes: number
  readonly unpackedBytes: number
}

/** @param out A folder that is made anew. */
export function pack(out: string): Packed {
  const checkout = readJson<Checkout>('package.json')
  const { name, version } = checkout
  rmSync(out, { recursive: true, force: true })
  const stage = join(out, name)
  mkdirSync(stage, { recursive: true })
  compile(join(stage, 'dist'))
  for (const path of carried) cpSync(join(root, path), join(stage, path), { recursive: true })
  // In the checkout the command runs the sources.
  edit(join(stage, 'bin/dropgate.js'), '../src/main.ts', '../dist/main.js')
  const lock = shrinkwrap(readJson<Lock>('package-lock.json'), checkout)
  writeFileSync(join(stage, 'npm-shrinkwrap.json'), json(lock))
  writeFileSync(join(stage, 'package.json'), json(manifest(checkout, readdirSync(stage))))
  copyPackages(Object.keys(lock.packages), stage)
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', out]
  const [{ filename, entryCount: files, size: packedBytes, unpackedSize: unpackedBytes }] =
    JSON.parse(run('npm', args, stage))
  return { name, version, stage, file: join(out, filename), files, packedBytes, unpackedBytes }
}

/** @param dist Where the compiled sources go, and the SQL to the code that reads it. */
function compile(dist: string): void {
  run(join(root, 'node_modules/.bin/tsc'), ['-p', join(root, 'release'), '--outDir', dist], root)
  cpSync(join(root, 'src/store/sql'), join(dist, 'store/sql'), { recursive: true })
}

/** @param staged What the folder of the package holds at its top. */
function manifest(checkout: Checkout, staged: readonly string[]): object {
  const { name, version, description, license, type, engines, dependencies } = checkout
  return {
    ...{ name, version, description, license, type, engines },
    ...command,
    // Nothing in it is to be imported.
    exports: { './package.json': './package.json' },
    files: [...staged].sort(),
    dependencies,
    bundleDependencies: true,
    ...databases(checkout),
  }
}

/** The checkout's lock without what only the checkout needs. */
function shrinkwrap({ packages, ...head }: Lock, checkout: Checkout): Lock {
  const { name, version, license, engines, dependencies, optionalDependencies } = checkout
  const absent = Object.keys(optionalDependencies).map((each) => `node_modules/${each}`)
  const kept = Object.entries(packages).filter(
    ([path, { dev }]) => path !== '' && dev !== true && !absent.includes(path),
  )
  const top = { name, version, license, dependencies, ...command, engines, ...databases(checkout) }
  return { ...head, packages: { '': top, ...Object.fromEntries(kept) } }
}

function copyPackages(paths: readonly string[], stage: string): void {
  for (const path of paths.filter((each) => each !== '')) {
    const from = join(root, path)
    // What lies below it has a path of its own, if it is wanted.
    const filter = (file: string): boolean => !file.slice(from.length).includes('/node_modules')
    cpSync(from, join(stage, path), { recursive: true, filter })
  }
}

const command = { bin: { dropgate: 'bin/dropgate.js' } }

/**
 * PostgreSQL is never installed with dropgate: 60 MB that only a trial needs. It is named, so that one that is installed
 * beside dropgate is found, whatever installs it.
 */
function databases({ optionalDependencies: each }: Checkout): object {
  const optional = Object.keys(each).map((name) => [name, { optional: true }])
  return { peerDependencies: each, peerDependenciesMeta: Object.fromEntries(optional) }
}

/** @returns what it printed. */
export function run(program: string, args: readonly string[], cwd: string): string {
  const done = spawnSync(program, args, { cwd, encoding: 'utf8', maxBuffer: 64 << 20 })
  if (done.status === 0) return done.stdout
  throw new Error(
    `${program} ${args.join(' ')} failed:\n${done.error ?? done.stdout + done.stderr}`,
  )
}

function edit(file: string, from: string, to: string): void {
  const parts = readFileSync(file, 'utf8').split(from)
  if (parts.length !== 2) throw new Error(`${file} does not name ${from} exactly once`)
  writeFileSync(file, parts.join(to))
}

function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(join(root, path), 'utf8')) as T
}

function json(value: object): string {
  return `${JSON.stringify(value, null, 2)}\n`
}

// For the tests: `node release/stage.ts FOLDER`.
if (import.meta.main) process.stdout.write(json(pack(process.argv[2]!)))
