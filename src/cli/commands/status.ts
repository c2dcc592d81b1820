/** `status`: the running gate's report from its admin port, and the database's list of all gates. */
import { asGateError, GateError } from '../../errors.ts'
import { addCommand, type CommonOptions, type ExitWith, type StrictCommand } from '../command.ts'
import { print, printResult } from '../output.ts'

export function addStatus(program: StrictCommand, exitWith: ExitWith): void {
  addCommand(
    program,
    'status',
    'show the state of the running gate, and the list of all gates',
  ).action(async (options: CommonOptions) => {
    const found = await askStatus(options.config)
    printResult(options, found, () => print(JSON.stringify(found, null, 2)))
    if (!found.ready) exitWith(1)
  })
}

interface Status {
  readonly ready: boolean
  readonly reasons: readonly string[]
  readonly [more: string]: unknown
}

/** @throws GateError ERR_NOT_FOUND when no gate answers */
async function askStatus(file: string): Promise<Status> {
  const { askGate } = await import('../admin.ts')
  const { status, document } = await askGate(file, '/v1/status')
  if (status === 200) return { ...(document as Status), gates: await listGates(file) }
  throw new GateError('ERR_NOT_FOUND', `the admin port answered ${status}`)
}

/** Every gate on the same database; the error's message instead if the database cannot be asked. */
async function listGates(file: string): Promise<readonly object[] | string> {
  const { asCommand } = await import('../database.ts')
  const { listFleet } = await import('../../store/statements.ts')
  try {
    return await asCommand(file, listFleet)
  } catch (error) {
    return asGateError(error).message
  }
}
