/** `serve`: see ../serve.ts. */
import { addCommand, type CommonOptions, type ExitWith, type StrictCommand } from '../command.ts'
import { Signals } from '../signals.ts'

export function addServe(program: StrictCommand, exitWith: ExitWith): void {
  addCommand(program, 'serve', 'run a gate until SIGTERM or SIGINT').action(
    async ({ config }: CommonOptions) => {
      const signals = new Signals()
      const { serve } = await import('../serve.ts')
      exitWith(await serve(config, signals))
    },
  )
}
