/** Errors of the argument parser -> what is wrong, the nearest word that is known, and how the command is written. */
import type { Command, CommanderError } from 'commander'
import { nearest } from '../domain/nearest.ts'
import { GateError } from '../errors.ts'

/** @param args The arguments that `program` refused. */
export function usageError(
  error: CommanderError,
  program: Command,
  args: readonly string[],
): GateError {
  const [message = '', ...more] = error.message.replace(/^error: /, '').split('\n')
  const command = commandOf(program, args)
  const meant = meantWords(message, more.join(' '), command)
  const misplaced = command === program ? commandAfter(program, args) : undefined
  const name = namesOf(command).join(' ')
  const last = command.commands.length === 0
  const hints = [
    ...targetHint(error, command, args),
    ...(misplaced !== undefined && meant === undefined
      ? [`options come after the command: \`dropgate ${misplaced} ${args[0]}\``]
      : []),
    ...(meant === undefined ? [] : [`did you mean ${meant}?`]),
    ...(command.registeredArguments.length > 0 ? [`usage: \`${name} ${command.usage()}\``] : []),
    `\`${name} --help\` lists all ${last ? 'options' : 'commands'}`,
  ]
  return new GateError('ERR_USAGE', message, { hint: hints.join('; ') })
}

/** A target that was given without its option. */
function targetHint({ code }: CommanderError, command: Command, args: readonly string[]): string[] {
  if (code !== 'commander.excessArguments' || command.name() !== 'revoke') return []
  const given = args.slice(1).find((arg) => !arg.startsWith('-'))
  return [`name the target by an option: \`dropgate revoke --subject ${given}\` for a user`]
}

/** What other programs call the targets. */
const otherNames: Readonly<Record<string, string>> = {
  '--user': '--subject',
  '--username': '--subject',
  '--sub': '--subject',
  '--sid': '--session',
  '--jti': '--token',
  '--app': '--client',
  '--client-id': '--client',
  '--ip': '--network',
  '--cidr': '--network',
  '--all': '--everyone',
  '--role': '--claim /role=NAME',
}

/** The command that the first arguments name; the program itself if they name none. */
function commandOf(program: Command, args: readonly string[]): Command {
  let command = program
  for (const arg of args) {
    const next = command.commands.find((each) => each.name() === arg)
    if (next === undefined) break
    command = next
  }
  return command
}

/** A command whose name comes after the first argument, which is an option. */
function commandAfter(program: Command, args: readonly string[]): string | undefined {
  if (!args[0]?.startsWith('-')) return undefined
  return args.find((arg) => program.commands.some((each) => each.name() === arg))
}

function namesOf(command: Command): string[] {
  return command.parent === null ? [command.name()] : [...namesOf(command.parent), command.name()]
}

/** @param more What the parser has added to its message, such as `(Did you mean --subject?)`. */
function meantWords(message: string, more: string, command: Command): string | undefined {
  const [, unknown = ''] = /^unknown option '(--[^=']+)/.exec(message) ?? []
  const meant = otherNames[unknown]
  if (meant !== undefined && command.options.some(({ long }) => long === meant.split(' ')[0]))
    return meant
  const [, said] = /^\(Did you mean (?:one of )?(.*)\?\)$/.exec(more) ?? []
  if (said !== undefined) return said.replace(/, ([^,]*)$/, ' or $1')
  const [, flag] = /^unknown option '(-[^-=']+)/.exec(message) ?? []
  if (flag !== undefined) {
    const flags = command.options.map(({ long }) => long ?? '')
    return flags.find((each) => each === `-${flag}`)
  }
  const [, given, choices] =
    / '([^']*)' is invalid.*\. Allowed choices are (.*)\.$/.exec(message) ?? []
  return given === undefined ? undefined : nearest(given, choices!.split(', '))
}
