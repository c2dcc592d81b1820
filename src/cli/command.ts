/**
 * What all commands share: their common options, and a rule that commander does not have. An option that is given twice
 * is either a list or refused: taking only the last value would do half of what the user asked for, and report it as
 * done.
 */
import { Command, type Option } from 'commander'
import { GateError } from '../errors.ts'

/** Options of every command. */
export interface CommonOptions {
  readonly config: string
  readonly json?: boolean
}

/** Sets the exit status of a command that has done its work. */
export type ExitWith = (code: number) => void

export class StrictCommand extends Command {
  #given = new Set<string>()
  #repeatHint = 'give it once'

  override createCommand(name?: string): StrictCommand {
    return new StrictCommand(name)
  }

  override addOption(option: Option): this {
    const flag = option.long ?? option.flags
    // Runs before commander's own listener, so that the second value is not even parsed.
    if (!isList(option)) {
      this.on(`option:${option.name()}`, () => {
        // `--no-x` and `--x` set the same attribute.
        const name = option.attributeName()
        if (this.#given.has(name))
          throw new GateError('ERR_USAGE', `${flag} is given twice`, { hint: this.#repeatHint })
        this.#given.add(name)
      })
    }
    return super.addOption(option)
  }

  /** Sets the hint for an option of this command that is given twice. */
  repeatHint(hint: string): this {
    this.#repeatHint = hint
    return this
  }
}

/** Adds a command with the common options. */
export function addCommand(
  parent: StrictCommand,
  name: string,
  description: string,
): StrictCommand {
  return parent
    .command(name)
    .description(description)
    .option('--config <file>', 'configuration file', 'dropgate.yaml')
    .option('--json', 'results and errors as JSON')
}

/** Adds the option of commands that write rows, by which they use another login; database.ts reads it. */
export function addBreakglass(command: StrictCommand): StrictCommand {
  return command.option(
    '--breakglass',
    'use the login database.breakglass_url: it may write what hits everyone, an issuer or a large network',
  )
}

/** True for an option that may be given more than once. */
export function isList(option: Option): boolean {
  return option.variadic || option.parseArg === collect
}

/** Collects the values of a repeatable option into a list. */
export function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value]
}
