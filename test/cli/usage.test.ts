/** A command line that is not understood: what is wrong, the nearest word that is known, and where to look. */
import { CommanderError } from 'commander'
import t from 'tap'
import { makeProgram } from '../../src/cli/program.ts'
import { usageError } from '../../src/cli/usage.ts'
import type { GateError } from '../../src/errors.ts'

async function refusal(line: string): Promise<GateError> {
  const args = line.split(' ')
  const program = makeProgram(() => {})
  try {
    await program.parseAsync(args, { from: 'user' })
  } catch (error) {
    if (error instanceof CommanderError) return usageError(error, program, args)
    throw error
  }
  throw new Error(`accepted ${line}`)
}

t.test('near words are named, and where the others are listed', async (t) => {
  const cases: readonly (readonly [line: string, message: string, hint: RegExp])[] = [
    ['revok --subject a', "unknown command 'revok'", /^did you mean revoke\?; `dropgate --help` lists all commands$/],
    ['config chek', "unknown command 'chek'", /^did you mean check\?; `dropgate config --help` lists/],
    ['revoke --subjekt a', "unknown option '--subjekt'", /^did you mean --subject\?; `dropgate revoke --help` lists all options$/],
    ['revoke -subject a', "unknown option '-subject'", /^did you mean --subject\?/],
    ['config check --jsn', "unknown option '--jsn'", /^did you mean --json\?; `dropgate config check --help`/],
    ['live --protocol htp', "argument 'htp' is invalid. Allowed choices are http, websocket.", /^did you mean http\?/],
    ['completion bsh', "'bsh' is invalid for argument 'shell'. Allowed choices are", /^did you mean bash\?/],
    ['lift', "missing required argument 'id'", /^usage: `dropgate lift \[options\] <id>`; /],
    ['lift 1 2', "too many arguments for 'lift'", /^usage: `dropgate lift \[options\] <id>`; /],
    ['--json list', "unknown option '--json'", /^options come after the command: `dropgate list --json`; /],
    ['revoke --subject', "option '--subject <sub>' argument missing", /^`dropgate revoke --help`/],
    ['revoke alice --wait', "too many arguments for 'revoke'", /^name the target by an option: `dropgate revoke --subject alice` for a user; /],
    ['revoke --user alice', "unknown option '--user'", /^did you mean --subject\?; /],
    ['list --ip 10.0.0.1', "unknown option '--ip'", /^did you mean --network\?; /],
    ['purge --user alice', "unknown option '--user'", /^`dropgate purge --help` lists/],
    ['nonsense', "unknown command 'nonsense'", /^`dropgate --help` lists all commands$/],
  ] // biome-ignore format: a table
  for (const [line, message, hint] of cases) {
    const error = await refusal(line)
    t.equal(error.code, 'ERR_USAGE')
    t.match(error.message, message)
    t.match(error.hint, hint, line)
  }
})
