/** The command line: arguments -> one of the commands in commands/ -> the exit status. */
import { readFileSync } from 'node:fs'
import { type Command, CommanderError } from 'commander'
import { asGateError } from '../errors.ts'
import { type ExitWith, StrictCommand } from './command.ts'
import { addBuild } from './commands/build.ts'
import { addCompletion } from './commands/completion.ts'
import { addConfig } from './commands/config.ts'
import { addCut } from './commands/cut.ts'
import { addDemo } from './commands/demo.ts'
import { addDev } from './commands/dev.ts'
import { addEval } from './commands/eval.ts'
import { addInit } from './commands/init.ts'
import { addLift } from './commands/lift.ts'
import { addList } from './commands/list.ts'
import { addLive } from './commands/live.ts'
import { addMigrate } from './commands/migrate.ts'
import { addPurge } from './commands/purge.ts'
import { addRevoke } from './commands/revoke.ts'
import { addServe } from './commands/serve.ts'
import { addShow } from './commands/show.ts'
import { addSql } from './commands/sql.ts'
import { addStatus } from './commands/status.ts'
import { addTest } from './commands/test.ts'
import { addWho } from './commands/who.ts'
import { printError, root } from './output.ts'

/** Each function adds one command; `--help` lists them in this order. */
const commands = [
  addServe, addConfig, addMigrate, addSql, addRevoke, addLift, addList, addShow, addWho, addLive, addCut, addPurge, addStatus, addBuild,
  addDev, addTest, addEval, addInit, addDemo, addCompletion,
] // biome-ignore format: a list

/** @param args Arguments after node and script. @returns the exit status: 0 done, 1 failed, 2 wrong use. */
export async function runCommand(args: readonly string[]): Promise<number> {
  const json = args.includes('--json')
  let exit = 0
  const program = makeProgram((code) => {
    exit = code
  })
  try {
    await program.parseAsync([...args], { from: 'user' })
    return exit
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return 0
      // `dropgate config` alone: commander has printed its help already.
      if (error.code === 'commander.help') return 2
      const { usageError } = await import('./usage.ts')
      return printError(usageError(error, program, args), json)
    }
    const known = asGateError(error)
    if (known.code === 'ERR_INTERNAL') process.stderr.write(`${(error as Error).stack}\n`)
    return printError(known, json)
  }
}

/** @param exitWith Called by a command that did its work but needs an exit status other than 0. */
export function makeProgram(exitWith: ExitWith): Command {
  const program = new StrictCommand('dropgate')
    .description('A policy-as-code access proxy: a revocation takes effect everywhere at once.')
    .version(version())
  // Set before the commands are added, since they inherit it.
  program.exitOverride().configureOutput({ outputError: () => {} })
  for (const add of commands) add(program, exitWith)
  return program
}

function version(): string {
  return (JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { version: string }).version
}
