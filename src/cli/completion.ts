/**
 * Shell completion: a script in which all commands, options and choices stand written out, made from the tree of
 * commands. It runs no dropgate at a press of the tab key, which would cost a noticeable moment each time.
 */
import type { Command } from 'commander'

export type Shell = 'bash' | 'zsh' | 'fish'

interface Word {
  readonly word: string
  readonly about: string
}

interface OptionWord extends Word {
  readonly takesValue: boolean
  /** Values of the option; empty where any value may follow. */
  readonly choices: readonly string[]
  readonly takesFile: boolean
}

/** One command of the tree. */
interface Node {
  /** The words after `dropgate`: `config check`. */
  readonly path: string
  readonly commands: readonly Word[]
  readonly options: readonly OptionWord[]
  /** What its arguments can be, where that is known. */
  readonly operands: readonly string[]
  readonly takesFile: boolean
}

export function completionScript(shell: Shell, program: Command): string {
  const nodes = nodesOf(program, [])
  return `${{ bash, zsh, fish }[shell](nodes)}\n`
}

const ofFiles = /file|folder|bundle|input/

function nodesOf(command: Command, names: readonly string[]): Node[] {
  const operands = command.registeredArguments
  const node: Node = {
    path: names.join(' '),
    commands: command.commands.map((each) => ({ word: each.name(), about: each.description() })),
    options: [
      ...command.options.map((option) => ({
        word: option.long!,
        about: option.description,
        takesValue: option.required || option.optional,
        choices: option.argChoices ?? [],
        takesFile: ofFiles.test(option.flags.slice(option.flags.indexOf(' '))),
      })),
      { word: '--help', about: 'show help', takesValue: false, choices: [], takesFile: false },
    ],
    operands: operands.flatMap(({ argChoices }) => argChoices ?? []),
    takesFile: operands.some((argument) => ofFiles.test(argument.name())),
  }
  return [node, ...command.commands.flatMap((each) => nodesOf(each, [...names, each.name()]))]
}

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

/** The cases of a shell's `case`, for commands below which there are others or that are commands. */
function steps(nodes: readonly Node[]): string {
  const below = nodes.filter(({ path }) => path !== '').map(({ path }) => quoted(path))
  return below.join(' | ')
}

/** `case` branches for options that take a value: `live --protocol)`. */
function valueBranches(
  nodes: readonly Node[],
  choose: (choices: string) => string,
  file: string,
): string[] {
  return nodes.flatMap(({ path, options }) =>
    options
      .filter(({ takesValue }) => takesValue)
      .map(({ word, choices, takesFile }) => {
        const act = choices.length > 0 ? choose(choices.join(' ')) : takesFile ? file : ':'
        return `    ${quoted(`${path} ${word}`)}) ${act}; return ;;`
      }),
  )
}

function bash(nodes: readonly Node[]): string {
  const words = ({ commands, options, operands }: Node): string =>
    [...commands, ...options]
      .map(({ word }) => word)
      .concat(operands)
      .join(' ')
  return `# bash completion for dropgate. To use it: source <(dropgate completion bash)
_dropgate() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD - 1]} at= next i
  COMPREPLY=()
  # bash splits --option=value at the sign.
  if [[ $cur == = ]]; then cur=
  elif [[ $prev == = ]]; then prev=\${COMP_WORDS[COMP_CWORD - 2]}
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    next="\${at:+$at }\${COMP_WORDS[i]}"
    case $next in ${steps(nodes)}) at=$next ;; esac
  done
  case "$at $prev" in
${valueBranches(
  nodes,
  (choices) => `COMPREPLY=($(compgen -W ${quoted(choices)} -- "$cur"))`,
  'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur"))',
).join('\n')}
  esac
  case $at in
${nodes.map((node) => `    ${quoted(node.path)}) next=${quoted(words(node))} ;;`).join('\n')}
  esac
  COMPREPLY=($(compgen -W "$next" -- "$cur"))
  case $at in
    ${nodes
      .filter(({ takesFile }) => takesFile)
      .map(({ path }) => quoted(path))
      .join(' | ')})
      compopt -o filenames 2>/dev/null
      [[ $cur == -* ]] || COMPREPLY+=($(compgen -f -- "$cur")) ;;
  esac
}
complete -F _dropgate dropgate`
}

/** In zsh \`path\` is the list of \$PATH: no variable may have that name. */
function zsh(nodes: readonly Node[]): string {
  const described = (list: readonly Word[]): string =>
    list.map(({ word, about }) => quoted(`${word.replaceAll(':', '\\:')}:${about}`)).join(' ')
  const branch = ({ path, commands, options, operands, takesFile }: Node): string =>
    [
      `    ${quoted(path)})`,
      ...(commands.length > 0
        ? [`list=(${described(commands)}); _describe -t commands command list;`]
        : []),
      ...(operands.length > 0 ? [`compadd -- ${operands.map(quoted).join(' ')};`] : []),
      ...(takesFile ? ['_files;'] : []),
      `list=(${described(options)}); _describe -o -t options option list ;;`,
    ].join(' ')
  return `#compdef dropgate
# zsh completion for dropgate. To use it: source <(dropgate completion zsh)
_dropgate() {
  local at= next prev=\${words[CURRENT - 1]} i
  local -a list
  for ((i = 2; i < CURRENT; i++)); do
    next="\${at:+$at }\${words[i]}"
    case $next in (${steps(nodes)}) at=$next ;; esac
  done
  case "$at $prev" in
${valueBranches(
  nodes,
  (choices) => `compadd -- ${choices.split(' ').map(quoted).join(' ')}`,
  '_files',
).join('\n')}
  esac
  case $at in
${nodes.map(branch).join('\n')}
  esac
}
if [[ \${funcstack[1]} == _dropgate ]]; then _dropgate "$@"; else compdef _dropgate dropgate; fi`
}

function fish(nodes: readonly Node[]): string {
  const text = (words: string): string =>
    `'${words.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
  const line = ({ path, commands, options, operands, takesFile }: Node): string[] => {
    const names = path.split(' ').filter((name) => name !== '')
    const seen = names.map((name) => `__fish_seen_subcommand_from ${name}`)
    const notYet = `not __fish_seen_subcommand_from ${commands.map(({ word }) => word).join(' ')}`
    const when = [...seen, ...(commands.length > 0 ? [notYet] : [])].join('; and ')
    const start = `complete -c dropgate -n ${text(when)}`
    return [
      ...commands.map(({ word, about }) => `${start} -a ${word} -d ${text(about)}`),
      ...(operands.length > 0 ? [`${start} -a ${text(operands.join(' '))}`] : []),
      ...(takesFile ? [`${start} -F`] : []),
      ...options.map(({ word, about, takesValue, choices, takesFile: file }) => {
        const value =
          choices.length > 0
            ? ` -xa ${text(choices.join(' '))}`
            : takesValue
              ? file
                ? ' -rF'
                : ' -x'
              : ''
        return `${start} -l ${word.slice(2)}${value} -d ${text(about)}`
      }),
    ]
  }
  return [
    '# fish completion for dropgate. To use it: dropgate completion fish | source',
    'complete -c dropgate -f',
    ...nodes.flatMap(line),
  ].join('\n')
}
