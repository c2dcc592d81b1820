/** argv -> a command -> the exit status. */
import { runCommand } from './cli/program.ts'

process.exitCode = await runCommand(process.argv.slice(2))
// A handle that was not closed must not keep a stopped gate alive; all output has been written by now.
process.stdout.write('', () => process.exit())
