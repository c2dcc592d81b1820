/** The command `init`: writes the configuration of a first gate, the SQL for its logins, and a starter policy. */
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { makeFolder } from '../../domain/folder.ts'
import { GateError } from '../../errors.ts'
import { commandName, root } from '../output.ts'
import { shellWord } from '../shell.ts'
import { answersFrom, databaseName, type Given } from './answers.ts'
import { configText } from './config-text.ts'
import { environmentText, loginsSql, passwordsFrom } from './logins.ts'

export interface InitOptions {
  /** The configuration that is written. */
  readonly config: string
  readonly force: boolean
  /** True to write a starter policy too. */
  readonly policies: boolean
}

export interface InitResult {
  /** What was written, relative to the current folder. */
  readonly files: readonly string[]
  /** What is to be run next, in this order. */
  readonly next: readonly string[]
}

/** @throws GateError ERR_USAGE, ERR_CONFIG_FILE */
export async function init(options: InitOptions, given: Given): Promise<InitResult> {
  const config = resolve(options.config)
  const folder = dirname(config)
  const sql = join(folder, 'dropgate-logins.sql')
  const environment = join(folder, 'dropgate.env')
  if (!options.force) refuseExisting([config, sql, environment])
  const answers = await answersFrom(given)
  const passwords = passwordsFrom(existsSync(environment) ? readFileSync(environment, 'utf8') : '')
  const server = serverOf(answers.database)
  const made: string[] = []
  try {
    makeFolder(folder)
    write(config, configText(answers), 0o644)
    write(sql, loginsSql(passwords, databaseName(answers.database)!, server), 0o644)
    write(environment, environmentText(passwords), 0o600)
    made.push(config, sql, environment, ...makePolicies(folder, options.policies))
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException
    throw new GateError('ERR_CONFIG_FILE', `cannot write ${path ?? folder} (${code})`, {
      cause: error,
      hint: 'name a file in a folder to which you may write: --config FOLDER/dropgate.yaml',
    })
  }
  const here = (path: string): string => relative('', path)
  const name = commandName()
  const choice = here(config) === 'dropgate.yaml' ? '' : ` --config ${shellWord(here(config))}`
  return {
    files: made.map(here),
    next: [
      `psql ${shellWord(server)} -f ${shellWord(here(sql))}`,
      `set -a; . ${shellWord(join('.', here(environment)).replace(/^(?![./])/, './'))}; set +a`,
      ...['config check', 'migrate', 'serve'].map((command) => `${name} ${command}${choice}`),
    ],
  }
}

function refuseExisting(files: readonly string[]): void {
  const existing = files.filter((file) => existsSync(file)).map((file) => basename(file))
  if (existing.length === 0) return
  throw new GateError(
    'ERR_USAGE',
    `${existing.join(', ')} ${existing.length === 1 ? 'is' : 'are'} there already in ${dirname(files[0]!)}`,
    {
      hint: 'name another folder with --config FOLDER/dropgate.yaml, or write the files anew with --force, which keeps the passwords',
    },
  )
}

/** Writes a file whose mode is right from its first byte on. */
function write(path: string, text: string, mode: number): void {
  rmSync(path, { force: true })
  writeFileSync(path, text, { mode, flag: 'wx' })
}

/** A policy or bundle that is there stays. @returns what was made */
function makePolicies(folder: string, starter: boolean): string[] {
  const bundles = join(folder, 'bundles')
  if (!starter) {
    makeFolder(bundles)
    return []
  }
  const missing = ['policies', 'bundles'].filter((name) => !existsSync(join(folder, name)))
  for (const name of missing) cpSync(join(root, name), join(folder, name), { recursive: true })
  return missing.map((name) => join(folder, name))
}

/** The URL of the server for an administrator: the same hosts, the database that every server has. */
function serverOf(database: string): string {
  return database
    .replace('://', '://postgres@')
    .replace(/^([^/]*\/\/[^/?#]*\/)[^/?#]+/, '$1postgres')
}
