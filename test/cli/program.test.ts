/** Every option of every command, read from the program itself: what is given twice is a list or refused. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text as readStream } from 'node:stream/consumers'
import type { Argument, Command, Option } from 'commander'
import t from 'tap'
import { isList } from '../../src/cli/command.ts'
import { makeProgram } from '../../src/cli/program.ts'
import type { GateError } from '../../src/errors.ts'
import { startPostgres } from '../harness/postgres.ts'

interface Parsed {
  /** What the command would have been run with; undefined where it was not. */
  readonly options: Record<string, unknown> | undefined
  readonly error: GateError | undefined
}

/** The program with each action replaced by one that notes its options. */
async function parse(args: readonly string[]): Promise<Parsed> {
  const program = makeProgram(() => {})
  let options: Record<string, unknown> | undefined
  for (const { command } of commandsOf(program)) {
    if (command.commands.length === 0)
      command.action(() => {
        options = command.opts()
      })
  }
  try {
    await program.parseAsync([...args], { from: 'user' })
    return { options, error: undefined }
  } catch (error) {
    return { options, error: error as GateError }
  }
}

interface Named {
  readonly command: Command
  /** Its name and those above it. */
  readonly path: readonly string[]
}

function commandsOf(command: Command, path: readonly string[] = []): Named[] {
  return [
    { command, path },
    ...command.commands.flatMap((each) => commandsOf(each, [...path, each.name()])),
  ]
}

const takesValue = (option: Option): boolean => option.required || option.optional
const valuesOf = ({ argChoices }: Option): readonly [string, string] =>
  argChoices === undefined ? ['first', 'second'] : [argChoices[0]!, argChoices.at(-1)!]

/** Each way to write an option down. */
function spellings(option: Option, value: string): readonly (readonly string[])[] {
  const { long, short } = option
  const flags = [long, short].filter((flag) => flag != null)
  if (!takesValue(option)) return flags.map((flag) => [flag])
  return [
    ...flags.map((flag) => [flag, value]),
    ...(long == null ? [] : [[`${long}=${value}`]]),
    ...(short == null ? [] : [[`${short}${value}`]]),
  ]
}

const leaves = commandsOf(makeProgram(() => {})).filter(
  ({ command }) => command.commands.length === 0,
)
const operands = (command: Command): string[] =>
  command.registeredArguments
    .filter(({ required }: Argument) => required)
    .map(({ argChoices }) => argChoices?.[0] ?? 'operand')

t.test('twice is refused, in every spelling and place, unless the option is a list', async (t) => {
  const lists: string[] = []
  let refused = 0
  for (const { command, path } of leaves) {
    for (const option of command.options) {
      const [one, two] = valuesOf(option)
      for (const first of spellings(option, one)) {
        const once = await parse([...path, ...operands(command), ...first])
        t.match(once, { options: {}, error: undefined }, `${path.join(' ')} ${first.join(' ')}`)
        for (const second of spellings(option, two)) {
          const args = [...path, ...first, ...operands(command), ...second]
          const { options, error } = await parse(args)
          if (isList(option)) {
            t.same(options?.[option.attributeName()], [one, two], args.join(' '))
            continue
          }
          refused++
          t.equal(options, undefined, `${args.join(' ')}: nothing is done`)
          t.match(error, { code: 'ERR_USAGE', message: `${option.long} is given twice` })
          t.ok(error?.hint, args.join(' '))
        }
      }
      if (isList(option)) lists.push(`${path.join(' ')} ${option.long}`)
    }
  }
  t.same(
    lists,
    ['revoke --claim', 'list --claim', 'build --entrypoint', 'eval --header'],
    'what is a list is meant to be one',
  )
  t.ok(refused > 100, String(refused))
})

t.test('the same value twice, or one that is not usable, is refused as well', async (t) => {
  for (const args of [
    ['revoke', '--subject', 'a', '--subject', 'a'],
    ['revoke', '--force', '--subject', 'a', '--force'],
    ['live', '--protocol', 'http', '--protocol', 'nonsense'],
    ['config', 'check', '--json', '--json'],
    ['list', '--limit', '50', '--limit', '50'],
  ]) {
    const { options, error } = await parse(args)
    t.equal(options, undefined)
    t.match(error, { code: 'ERR_USAGE', message: /^--\w+ is given twice$/ }, args.join(' '))
  }
  const hint = (await parse(['revoke', '--subject', 'a', '--subject', 'b'])).error!.hint!
  t.match(hint, /run it twice/)
})

t.test('all options of a command together are no repetition', async (t) => {
  for (const { command, path } of leaves) {
    const all = command.options.flatMap((option) => spellings(option, valuesOf(option)[0])[0]!)
    const { options, error } = await parse([...path, ...all, '--', ...operands(command)])
    t.equal(error, undefined, path.join(' '))
    t.same(
      Object.keys(options!).sort(),
      command.options.map((option) => option.attributeName()).sort(),
    )
  }
})

t.test('an option before its command, or a second operand, is not dropped either', async (t) => {
  for (const args of [
    ['--json', 'list'],
    ['--json', 'list', '--json'],
    ['--config', 'a', 'list', '--config', 'b'],
    ['config', '--json', 'check', '--json'],
    ['lift', '1', '2'],
    ['cut', 'a', 'b'],
    ['sql', 'SELECT 1', 'SELECT 2'],
    ['test', 'a', 'b'],
    ['list', 'everything'],
  ]) {
    const { options, error } = await parse(args)
    t.equal(options, undefined, args.join(' '))
    t.match(error, { code: /^commander\.(?:unknownOption|excessArguments)$/ }, args.join(' '))
  }
})

t.test('an option given twice is refused, and nothing is revoked', async (t) => {
  const cluster = await startPostgres()
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-program-'))
  t.teardown(async () => {
    await cluster.close()
    rmSync(folder, { recursive: true })
  })
  const config = join(folder, 'dropgate.yaml')
  writeFileSync(
    config,
    `database: {url: "${cluster.url}", cli_url: "${cluster.cli_url}"}
routes: [{name: public, auth: none, upstream: "http://127.0.0.1:1"}]
`,
  )
  const ask = async (...args: string[]) => {
    const child = spawn(process.execPath, ['src/main.ts', ...args, '--config', config])
    const exited = new Promise<number | null>((resolve) => child.once('close', resolve))
    const [out, err] = await Promise.all([readStream(child.stdout), readStream(child.stderr)])
    return { exit: await exited, out, err }
  }
  const rows = async (): Promise<unknown[]> => JSON.parse((await ask('list', '--json')).out)
  const before = await rows()
  for (const twice of [
    ['--subject', 'ann', '--subject', 'ben'],
    ['--subject=ann', '--reason', 'x', '--subject=ben'],
    ['--subject', 'ann', '--force', '--force'],
  ]) {
    const { exit, out, err } = await ask('revoke', ...twice)
    t.same([exit, out], [2, ''], twice.join(' '))
    t.match(err, /dropgate: --(?:subject|force) is given twice\n {2}hint: .*run it twice\n/)
  }
  const json = await ask('revoke', '--json', '--subject', 'ann', '--subject', 'ben')
  t.equal(json.exit, 2)
  t.match(JSON.parse(json.err), { error: { code: 'ERR_USAGE', message: /--subject/ } })
  t.same(await rows(), before, 'no row')
  const args = ['--subject', 'ann', '--session', 's', '--claim', '/a=1', '--claim', '/b=2']
  const one = await ask('revoke', ...args, '--force', '--json')
  t.equal(one.exit, 0, one.err)
  const { id } = JSON.parse(one.out)
  t.match(await rows(), [{ id, subject: 'ann', session_id: 's', claims: { '/a': '1', '/b': '2' } }])
  t.equal((await ask('lift', String(id), '--forget')).exit, 0)
})
