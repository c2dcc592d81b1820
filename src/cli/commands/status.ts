/** `status`: the state of the running gate, and the list of all gates; see ../status.ts. */
import { addCommand, type CommonOptions, type ExitWith, type StrictCommand } from '../command.ts'
import { printResult } from '../output.ts'

export function addStatus(program: StrictCommand, exitWith: ExitWith): void {
  addCommand(
    program,
    'status',
    'show the state of the running gate, and the list of all gates; exit status 1 if it is not ready or does not answer',
  ).action(async (options: CommonOptions) => {
    const { askStatus, printStatus } = await import('../status.ts')
    const found = await askStatus(options.config)
    printResult(options, found, () => printStatus(found))
    if (!found.ready) exitWith(1)
  })
}
