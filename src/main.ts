/** argv -> a command -> the exit status. */
import { runCommand } from './cli/program.ts'

process.exitCode = await runCommand(process.argv.slice(2))
// A handle that a room forgot must not keep a stopped gate alive; what was written is out by then.
process.stdout.write('', () => process.exit())
