/**
 * Commander with one more rule, for every option of every command: what is given twice is meant twice, so it is a list or
 * it is refused. To take the last one would do half of what was asked, and say that it is done.
 */
import { Command, type Option } from 'commander'
import { GateError } from '../errors.ts'

export class StrictCommand extends Command {
  #given = new Set<string>()
  #repeatHint = 'give it once'

  override createCommand(name?: string): StrictCommand {
    return new StrictCommand(name)
  }

  override addOption(option: Option): this {
    const flag = option.long ?? option.flags
    // Before commander's own listener, so that nothing is read of the second value.
    if (!isList(option)) {
      this.on(`option:${option.name()}`, () => {
        // `--no-x` and `--x` speak of the same thing.
        const name = option.attributeName()
        if (this.#given.has(name))
          throw new GateError('ERR_USAGE', `${flag} is given twice`, { hint: this.#repeatHint })
        this.#given.add(name)
      })
    }
    return super.addOption(option)
  }

  /** What to do instead of giving an option of this command twice. */
  repeatHint(hint: string): this {
    this.#repeatHint = hint
    return this
  }
}

/** May be given more than once. */
export function isList(option: Option): boolean {
  return option.variadic || option.parseArg === collect
}

/** Makes an option a list, one value each time it is given. */
export function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value]
}
