/** `demo` (`make start`): see ../demo/demo.ts. */
import { addCommand, type CommonOptions, type ExitWith, type StrictCommand } from '../command.ts'

export function addDemo(program: StrictCommand, exitWith: ExitWith): void {
  addCommand(
    program,
    'demo',
    'run a gate with its own PostgreSQL, issuer and upstream, to try it out',
  ).action(async ({ config }: CommonOptions) => {
    const { demo } = await import('../demo/demo.ts')
    exitWith(await demo(config))
  })
}
