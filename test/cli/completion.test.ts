/** The completion scripts, run by the shells that they are for. A shell that is not installed is skipped, and says so. */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import t from 'tap'
import { completionScript, type Shell } from '../../src/cli/completion.ts'
import { makeProgram } from '../../src/cli/program.ts'

const program = makeProgram(() => {})
const folder = t.testdir({ 'dropgate.yaml': '', other: '' })

function scriptOf(shell: Shell): string {
  const file = join(folder, `completion.${shell}`)
  writeFileSync(file, completionScript(shell, program))
  return file
}

const missing = (shell: string): string | false =>
  spawnSync(shell, ['--version']).error === undefined ? false : `${shell} is not installed`

/** What the shell offers for a line; the last word is the one that is being written, '' for a new one. */
type Offers = (...words: string[]) => readonly string[]

const inBash: Offers = (...words) => {
  const program = `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _dropgate; printf '%s\\n' "\${COMPREPLY[@]}"`
  return run('bash', ['-c', program, 'bash', scriptOf('bash'), 'dropgate', ...words])
}

/** The builtins of zsh's completion work only while it completes: those that take the words note them instead. */
const inZsh: Offers = (...words) => {
  const program = `compdef() { :; }
_describe() { local each; for each in "\${(@P)@[-1]}"; do print -r -- "\${each%%:*}"; done }
compadd() { shift; print -rl -- "$@"; }
_files() { print -rl -- *; }
source "$1"; shift
words=("$@"); CURRENT=$#; _dropgate`
  const last = words.at(-1)!
  return run('zsh', ['-f', '-c', program, 'zsh', scriptOf('zsh'), 'dropgate', ...words]).filter(
    (each) => each.startsWith(last),
  )
}

const inFish: Offers = (...words) => {
  const line = `dropgate ${words.join(' ')}`
  return run('fish', ['-N', '-c', `source '${scriptOf('fish')}'; complete -C '${line}'`]).map(
    (each) => each.split('\t')[0]!,
  )
}

function run(shell: string, args: readonly string[]): string[] {
  const { stdout, stderr, status } = spawnSync(shell, args, { encoding: 'utf8', cwd: folder })
  if (status !== 0 || stderr !== '') throw new Error(`${shell} ${status}: ${stderr}`)
  return stdout.split('\n').filter((line) => line !== '')
}

function leaves(command: Command, path: readonly string[] = []): [readonly string[], Command][] {
  if (command.commands.length === 0) return [[path, command]]
  return command.commands.flatMap((each) => leaves(each, [...path, each.name()]))
}

const shells: readonly (readonly [Shell, Offers])[] = [
  ['bash', inBash],
  ['zsh', inZsh],
  ['fish', inFish],
]
for (const [shell, offers] of shells) {
  t.test(
    `${shell} offers every command, option and choice`,
    { skip: missing(shell) },
    async (t) => {
      const sorted = (words: readonly string[]): string[] => [...words].sort()
      t.same(
        sorted(offers('').filter((word) => !word.startsWith('-'))),
        sorted(program.commands.map((command) => command.name())),
      )
      t.same(sorted(offers('re')), ['revoke'])
      t.same(offers('config', 'c'), ['check'])
      for (const [path, command] of leaves(program)) {
        const known = [...command.options.map(({ long }) => long!), '--help']
        t.same(sorted(offers(...path, '--')), sorted(known), path.join(' '))
      }
      t.same(offers('live', '--protocol', ''), ['http', 'websocket'])
      t.same(offers('live', '--protocol', 'w'), ['websocket'])
      t.same(offers('completion', 'f'), ['fish'])
      t.same(offers('revoke', '--subject', 'l'), [], 'a value that is any text')
      t.same(offers('list', '--config', 'dropgate.y'), ['dropgate.yaml'], 'a file')
    },
  )
}

t.test('bash: an option whose value is joined by a sign', { skip: missing('bash') }, async (t) => {
  t.same(inBash('live', '--protocol', '=', ''), ['http', 'websocket'])
  t.same(inBash('live', '--protocol', '='), ['http', 'websocket'])
  t.same(inBash('live', '--protocol', '=', 'h'), ['http'])
})

t.test(
  'the command prints the script, and refuses another shell with the nearest one',
  async (t) => {
    const run = (...args: string[]) =>
      spawnSync(process.execPath, ['src/main.ts', 'completion', ...args], { encoding: 'utf8' })
    for (const shell of ['bash', 'zsh', 'fish'] as const)
      t.equal(run(shell).stdout, completionScript(shell, program))
    t.match(JSON.parse(run('fish', '--json').stdout), { shell: 'fish', script: 'complete -c' })
    const { status, stderr } = run('bsh')
    t.equal(status, 2)
    t.match(stderr, /hint: did you mean bash\?/)
  },
)
