/** Gates and commands of this release and of earlier ones (test/releases), as the processes that users run. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { until } from './wait.ts'

export interface Release {
  readonly name: string
  /** Folder with its `src`, `package.json` and `bundles`. */
  readonly root: string
}

export const thisRelease: Release = { name: 'this release', root: resolve('.') }

/** The earlier releases whose gates may run while this one migrates their database. */
export function earlierReleases(): readonly Release[] {
  return readdirSync('test/releases')
    .filter((file) => file.endsWith('.tar.gz'))
    .sort()
    .map((file) => unpack(join('test/releases', file)))
}

/** Below the checkout, so that it finds the packages there; once, so that Node's compile cache knows its files. */
function unpack(file: string): Release {
  const name = basename(file, '.tar.gz')
  const digest = createHash('sha256').update(readFileSync(file)).digest('hex').slice(0, 12)
  const root = resolve('.tools/releases', `${name}-${digest}`)
  if (!existsSync(root)) {
    mkdirSync('.tools/releases', { recursive: true })
    const half = mkdtempSync(`${root}-`)
    const { status, stderr } = spawnSync('tar', ['-xzf', file, '-C', half], { encoding: 'utf8' })
    if (status !== 0) throw new Error(`${file} cannot be unpacked: ${stderr}`)
    try {
      renameSync(half, root)
    } catch {
      // Another test has done the same meanwhile.
      rmSync(half, { recursive: true })
    }
  }
  return { name, root }
}

export interface Ran {
  readonly exit: number | null
  readonly out: string
  readonly err: string
}

/** Runs a command of a release. */
export function command(release: Release, config: string, ...args: string[]): Promise<Ran> {
  const child = spawn(process.execPath, [
    join(release.root, 'src/main.ts'),
    ...args,
    ...['--config', config],
  ])
  let out = ''
  let err = ''
  child.stdout.on('data', (data) => {
    out += data
  })
  child.stderr.on('data', (data) => {
    err += data
  })
  return new Promise((done) => child.once('close', (exit) => done({ exit, out, err })))
}

/** What is asserted of `feed` in the admin port's answer to /v1/status; earlier releases have these fields too. */
export interface ShownFeed {
  readonly state: string
  readonly ticks: number
  readonly loads: number
  readonly reconnects: number
  readonly comparisons: number
  readonly differences: number
}

export interface ShownStatus {
  readonly id: string
  readonly ready: boolean
  readonly feed: ShownFeed
  readonly ledger: { readonly rows: number }
}

/** A running gate. */
export class GateProcess {
  readonly release: Release
  /** Its configuration, for commands as well. */
  readonly config: string
  /** What it has logged. */
  readonly logged: { readonly level: string; readonly msg: string }[] = []
  id = ''
  readonly #folder: string
  #process: ChildProcess | undefined
  #origin = ''
  #admin = ''
  #exited: Promise<number | null> = Promise.resolve(null)

  /** @param config All but what each gate has for itself */
  constructor(release: Release, config: Record<string, unknown>) {
    this.release = release
    this.#folder = mkdtempSync(join(tmpdir(), 'dropgate-release-'))
    mkdirSync(join(this.#folder, 'bundles'))
    cpSync(join(release.root, 'bundles/gate.tar.gz'), join(this.#folder, 'bundles/gate.tar.gz'))
    this.config = join(this.#folder, 'dropgate.yaml')
    const own = {
      listen: { host: '127.0.0.1', port: 0 },
      admin: { port: 0, token_file: 'admin.token' },
      policy: { bundles: './bundles' },
      decision_log: { file: 'decisions.jsonl' },
      workers: 1,
    }
    writeFileSync(this.config, JSON.stringify({ ...own, ...config }))
  }

  /** Starts it and waits until it is ready. */
  async start(): Promise<void> {
    const main = join(this.release.root, 'src/main.ts')
    const child = spawn(process.execPath, [main, 'serve', '--config', this.config], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    this.#process = child
    this.#exited = new Promise((done) => child.once('exit', done))
    createInterface({ input: child.stderr }).on('line', (line) => {
      const entry = line.startsWith('{') ? JSON.parse(line) : { level: 'error', msg: line }
      this.logged.push(entry)
      if (entry.msg !== 'listening') return
      this.#origin = `http://127.0.0.1:${entry.ports[0]}`
      this.#admin = `http://127.0.0.1:${entry.adminPort}`
    })
    let shown = 'it does not listen'
    await until(
      () => `a gate of ${this.release.name} is ready; ${shown}; it logged ${this.#log()}`,
      async () => {
        if (child.exitCode !== null) throw new Error(`a gate has ended; it logged ${this.#log()}`)
        if (this.#admin === '') return false
        const answer = await fetch(`${this.#admin}/readyz`)
        shown = await answer.text()
        return answer.ok
      },
      100_000,
    )
    this.id = (await this.status()).id
  }

  #log(): string {
    return this.logged.map(({ msg }) => msg).join('; ')
  }

  async status(): Promise<ShownStatus> {
    const token = readFileSync(join(this.#folder, 'admin.token'), 'utf8').trim()
    const headers = { authorization: `Bearer ${token}` }
    return (await (await fetch(`${this.#admin}/v1/status`, { headers })).json()) as ShownStatus
  }

  /** @returns the status of the answer to one request, with the code of a refusal */
  async ask(token: string): Promise<string> {
    const headers = { authorization: `Bearer ${token}` }
    const answer = await fetch(`${this.#origin}/orders`, { headers })
    const text = await answer.text()
    return answer.ok ? '200' : `${answer.status} ${JSON.parse(text).code}`
  }

  /** @returns its exit status */
  async stop(): Promise<number | null> {
    this.#process?.kill('SIGTERM')
    const exit = await this.#exited
    this.remove()
    return exit
  }

  /** Its end, where it is of no interest. */
  remove(): void {
    this.#process?.kill('SIGKILL')
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
