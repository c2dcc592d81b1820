/**
 * The pages of README.md and docs/ as their readers use them: their code blocks, and a terminal in which a test runs these
 * in order. A block's language says what it is: `sh` is typed, `sql` goes to psql, `text` right behind one of these is what
 * it prints, and any other is written to the file that the paragraph before it names last. A command that goes on until Ctrl-C (`serve`,
 * `demo`, `make start`) gets a terminal of its own, as a reader gives it one.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { until } from './wait.ts'

export interface Block {
  readonly language: string
  readonly text: string
  /** Page and line, for messages. */
  readonly where: string
  /** The heading that it stands under. */
  readonly section: string
  /** The paragraph before it. */
  readonly before: string
  /** The page says of it that it was not run where the tests run. */
  readonly untried: boolean
}

/** Every fenced block of a page; with other numbers for its ports, so that pages can be run beside each other. */
export function blocksOf(
  page: string,
  ports: ReadonlyMap<number, number> = new Map(),
): readonly Block[] {
  const blocks: Block[] = []
  let section = ''
  let before = ''
  let open: { language: string; from: number; indent: string } | undefined
  const lines = readFileSync(page, 'utf8').split('\n')
  for (const [i, line] of lines.entries()) {
    const fence = /^( *)```(.*)$/.exec(line)
    if (open !== undefined) {
      if (fence === null || fence[1] !== open.indent) continue
      const { language, from, indent } = open
      const text = lines.slice(from, i).map((each) => each.slice(indent.length))
      blocks.push({
        language,
        text: withPorts(`${text.join('\n')}\n`, ports),
        where: `${page}:${from + 1}`,
        section,
        before,
        untried: /\bnot\s+run\s+here\b/i.test(before),
      })
      open = undefined
    } else if (fence !== null) {
      open = { language: fence[2]!, from: i + 1, indent: fence[1]! }
    } else if (/^#+ /.test(line)) {
      section = line.replace(/^#+ /, '')
      before = ''
    } else if (line.trim() !== '') {
      before = lines[i - 1]?.trim() === '' ? line : `${before}\n${line}`
    }
  }
  return blocks
}

function withPorts(text: string, ports: ReadonlyMap<number, number>): string {
  return text.replace(/(?<![\d.])\d{4}(?![\d.])/g, (port) =>
    String(ports.get(Number(port)) ?? port),
  )
}

export interface TerminalOptions {
  readonly folder: string
  readonly env: Readonly<Record<string, string>>
  /** Where `psql` in a block of SQL connects to. */
  readonly sqlUrl?: () => string
  /** What the shell is run by; nothing when absent. */
  readonly shell?: readonly string[]
}

/** A folder whose `dropgate` is this checkout's, to be put on PATH. */
export function dropgateOnPath(folder: string): string {
  mkdirSync(folder, { recursive: true })
  const script = join(folder, 'dropgate')
  writeFileSync(script, `#!/bin/sh\nexec ${process.execPath} ${resolve('bin/dropgate.js')} "$@"\n`)
  chmodSync(script, 0o755)
  return [folder, process.env.PATH].join(delimiter)
}

/** What the shell prints when a command has failed. */
const broken = '--broken-off--'

/** One shell, in which a page is typed from top to bottom. */
export class Terminal {
  readonly folder: string
  readonly #shell: ChildProcess
  readonly #scratch = mkdtempSync(join(tmpdir(), 'dropgate-page-'))
  readonly #sqlUrl: () => string
  readonly #jobs: Job[] = []
  #printed = ''
  #typed = 0

  constructor({ folder, env, sqlUrl, shell = [] }: TerminalOptions) {
    this.folder = folder
    this.#sqlUrl = sqlUrl ?? (() => '')
    const path = [...psqlFolder(this.#scratch), env.PATH ?? process.env.PATH].join(delimiter)
    const [program, ...args] = [...shell, 'bash', '--noprofile', '--norc']
    this.#shell = spawn(program!, args, {
      cwd: folder,
      env: { HOME: folder, TERM: 'dumb', ...env, PATH: path },
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
    })
    for (const stream of [this.#shell.stdout!, this.#shell.stderr!])
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.#printed += text
      })
    this.#shell.stdin!.on('error', () => {})
    // Jobs get process groups of their own, which Ctrl-C reaches as in a terminal.
    // One stream, so that the lines of both come in their order.
    this.#shell.stdin!.write(`exec 2>&1; set -m; trap 'echo ${broken}' EXIT\n`)
  }

  /** Types the commands. @returns what they printed. @throws when one of them fails */
  async type(commands: string, where = 'a block'): Promise<string> {
    if (this.#printed.includes(broken)) throw new Error(`${where}: a command before has failed`)
    const from = this.#printed.length
    const mark = `--${++this.#typed}-done--`
    const file = join(this.#scratch, `${this.#typed}.sh`)
    writeFileSync(file, commands)
    this.#shell.stdin!.write(`set -e; . ${file} < /dev/null; set +e; echo; echo ${mark}\n`)
    const said = (): string => this.#printed.slice(from)
    await until(
      () => `${where}: the end of\n${commands}\nprinted so far:\n${said()}`,
      () => said().includes(mark) || said().includes(broken),
      180_000,
    )
    if (!said().includes(mark)) throw new Error(`${where} failed:\n${commands}\n${said()}`)
    return said().split(`\n${mark}`)[0]!
  }

  /** Types a command that goes on, in a terminal of its own, and waits until it has printed `ready`. */
  async start(command: string, ready: RegExp, where = 'a block'): Promise<Job> {
    const out = join(this.#scratch, `${++this.#typed}.out`)
    writeFileSync(out, '')
    const pid = (
      await this.type(`{ ${command.trim()}\n} > ${out} 2>&1 < /dev/null & echo PID $!`, where)
    )
      .split('PID ')[1]!
      .trim()
    const printed = (): string => readFileSync(out, 'utf8')
    const runs = (): boolean => isRunning(pid)
    await until(
      () => `${where}: ${ready} from\n${command}\nprinted so far:\n${printed()}`,
      () => ready.test(printed()) || !runs(),
      180_000,
    )
    if (!ready.test(printed())) throw new Error(`${where} ended:\n${command}\n${printed()}`)
    const job: Job = {
      printed,
      runs,
      stop: async (signal = 'INT') => {
        spawnSync('kill', [`-${signal}`, '--', `-${pid}`])
        await until(
          () => `the end of ${command}\n${printed()}`,
          () => !runs(),
          120_000,
        )
      },
    }
    this.#jobs.push(job)
    return job
  }

  /** All that was printed until now. */
  get printed(): string {
    return this.#printed
  }

  async sql(statements: string, where?: string): Promise<string> {
    const file = join(this.#scratch, `${++this.#typed}.sql`)
    writeFileSync(file, statements)
    return await this.type(`psql -X "${this.#sqlUrl()}" -v ON_ERROR_STOP=1 -f ${file}`, where)
  }

  /** Ends what still runs, and the shell. */
  async close(): Promise<void> {
    for (const job of this.#jobs) if (job.runs()) await job.stop().catch(() => job.stop('KILL'))
    try {
      process.kill(-this.#shell.pid!, 'SIGKILL')
    } catch {
      // It has ended.
    }
    rmSync(this.#scratch, { recursive: true, force: true })
  }
}

/** A process that has ended stays listed (Z) until its parent asks for it. */
function isRunning(pid: string): boolean {
  const { stdout } = spawnSync('ps', ['-o', 'stat=', '-p', pid], { encoding: 'utf8' })
  return stdout.trim() !== '' && !stdout.startsWith('Z')
}

export interface Job {
  printed(): string
  runs(): boolean
  /** Ctrl-C, and waits for the end. */
  stop(signal?: 'INT' | 'TERM' | 'KILL'): Promise<void>
}

const goesOn = /(?:^|\s)(?:serve|demo)(?: --config \S+)?\s*(?:#.*)?$|^make start$/

/**
 * Types every block of the page, or of some of its sections, in order, and compares what it prints with the block of text
 * right behind it. @returns the jobs that go on
 */
export async function follow(
  terminal: Terminal,
  blocks: readonly Block[],
  ready: RegExp = /"msg":"listening"|is ready on/,
): Promise<Job[]> {
  const jobs: Job[] = []
  let printed: string | undefined
  let last: Block | undefined
  for (const [i, block] of blocks.entries()) {
    const { language, text, where, before, untried } = block
    if (untried) continue
    if (language === 'sh') {
      const lines = text.trimEnd().split('\n')
      if (goesOn.test(lines.at(-1)!)) {
        const job = await terminal.start(text, ready, where)
        jobs.push(job)
        printed = job.printed()
      } else {
        const next = blocks[i + 1]
        const fails = next !== undefined && isOutput(next, block) && /^dropgate: /.test(next.text)
        printed = await terminal.type(fails ? failing(lines) : text, where)
      }
    } else if (language === 'sql') {
      printed = await terminal.sql(text, where)
    } else if (printed !== undefined && last !== undefined && isOutput(block, last)) {
      const missing = missingLines(text, printed)
      if (missing.length > 0)
        throw new Error(`${where}: not printed:\n${missing.join('\n')}\nbut:\n${printed}`)
      printed = undefined
    } else if (language !== 'text') {
      const file = [...before.matchAll(/`([\w./-]+\.\w+)`/g)].at(-1)?.[1]
      if (file === undefined)
        throw new Error(`${where}: the sentence before it names no file to write`)
      const path = resolve(terminal.folder, file)
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, text)
    }
    last = block
  }
  return jobs
}

/** No sentence stands between the two. */
function isOutput(block: Block, commands: Block): boolean {
  return block.language === 'text' && block.before === commands.before
}

/** The page shows the error of the last command: it has to fail. */
function failing(lines: readonly string[]): string {
  const first = lines.slice(0, -1).join('\n')
  return `${first}\nif ${lines.at(-1)}; then echo 'this was to fail'; exit 1; fi\n`
}

/** Lines of `expected` that do not come in this order in `printed`, where numbers, identifiers and times may differ. */
export function missingLines(expected: string, printed: string): string[] {
  const alike = (line: string): string =>
    line
      .replace(/\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/g, '0')
      .replace(/\b(?=[a-f]*\d)[0-9a-f]{8,}\b/g, '0')
      .replace(/\d+(?:[.:,-]\d+)*/g, '0')
      .replace(/-{2,}/g, '-')
      .replace(/\s+/g, ' ')
      .trim()
  const left = printed.split('\n').map(alike)
  return expected.split('\n').filter((line) => {
    const at = left.indexOf(alike(line))
    if (line.trim() === '') return false
    if (at !== -1) left.splice(0, at + 1)
    return at === -1
  })
}

/** Where this machine has no psql, a folder with one that does what the pages need of it (harness/psql.ts). */
function psqlFolder(scratch: string): string[] {
  if (spawnSync('psql', ['--version']).status === 0) return []
  const folder = join(scratch, 'bin')
  mkdirSync(folder)
  const script = resolve(import.meta.dirname, 'psql.ts')
  writeFileSync(join(folder, 'psql'), `#!/bin/sh\nexec ${process.execPath} ${script} "$@"\n`)
  chmodSync(join(folder, 'psql'), 0o755)
  return [folder]
}
