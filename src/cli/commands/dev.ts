/** `dev`: see ../dev.ts. */
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { untilStopped } from '../stop.ts'

export type DevFlags = CommonOptions & { readonly v0Compatible?: boolean }

export function addDev(program: StrictCommand): void {
  addCommand(
    program,
    'dev',
    'build policies at each save and load them into the gate, which it starts unless one runs with this configuration (needs opa)',
  )
    .argument('[folder]', 'Rego sources, data and tests (default: policies)')
    .option('--v0-compatible', 'the sources are in the syntax of OPA before 1.0')
    .action(async (folder: string | undefined, options: DevFlags) => {
      // From the first moment on: a signal that comes while the program is loading ends it as well. Closing the terminal does.
      const stopped = untilStopped(() => {}, ['SIGINT', 'SIGTERM', 'SIGHUP'])
      const { dev } = await import('../dev.ts')
      await dev(folder ?? 'policies', options, stopped)
    })
}
