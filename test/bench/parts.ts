/** The processes of a run: the upstream, the load, gates. All end with the run. */
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { until } from '../harness/wait.ts'
import { issuer, jwks } from './caller.ts'
import type { Done, Job } from './load.ts'
import { freePort } from './machine.ts'

const file = (name: string): string => new URL(name, import.meta.url).pathname

export interface RunningGate {
  readonly port: number
  readonly child: ChildProcess
  readonly decisions: string
}

export class Parts {
  readonly folder = mkdtempSync(join(tmpdir(), 'dropgate-bench-'))
  readonly children: ChildProcess[] = []
  readonly #load: ChildProcess = fork(file('./load.ts'))
  upstream = 0

  async open(): Promise<this> {
    const upstream = spawn(process.execPath, [file('./upstream.ts')], {
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
    })
    this.children.push(upstream, this.#load)
    this.upstream = await new Promise<number>((resolve) =>
      upstream.stdout!.once('data', (data) => resolve(Number(data))),
    )
    return this
  }

  get origin(): string {
    return `http://127.0.0.1:${this.upstream}`
  }

  /** Runs one job of the load. */
  apply(job: Job): Promise<Done> {
    return new Promise((resolve) => {
      this.#load.once('message', (done) => resolve(done as Done))
      this.#load.send(job)
    })
  }

  /** A gate that is ready, with the issuer's keys from a file. */
  async gate(
    name: string,
    bundle: Buffer,
    options: {
      readonly routes: readonly object[]
      readonly database: { readonly url: string }
      readonly limits?: object
      readonly workers?: number
    },
  ): Promise<RunningGate> {
    const home = mkdtempSync(join(this.folder, name))
    mkdirSync(join(home, 'bundles'))
    writeFileSync(join(home, 'bundles', 'gate.tar.gz'), bundle)
    writeFileSync(join(home, 'jwks.json'), JSON.stringify(jwks))
    const [port, adminPort] = [await freePort(), await freePort()]
    const decisions = join(home, 'decisions.jsonl')
    const config = {
      listen: { port },
      admin: { port: adminPort, token_file: 'token' },
      database: options.database,
      issuers: [{ issuer, audience: ['api'], algorithms: ['ES256'], jwks_file: 'jwks.json' }],
      policy: { bundles: './bundles' },
      decision_log: { file: decisions },
      limits: options.limits ?? {},
      workers: options.workers ?? 'auto',
      routes: options.routes,
    }
    writeFileSync(join(home, 'dropgate.yaml'), JSON.stringify(config))
    const child = spawn(
      process.execPath,
      ['src/main.ts', 'serve', '--config', join(home, 'dropgate.yaml')],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    )
    this.children.push(child)
    let said = ''
    child.stderr!.on('data', (data) => {
      said += data
    })
    try {
      await until(
        'the gate is ready',
        async () =>
          (await fetch(`http://127.0.0.1:${adminPort}/readyz`).catch(() => undefined))?.status ===
          200,
        60_000,
      )
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${said}`)
    }
    return { port, child, decisions }
  }

  /** Ends these processes in order, one after the other. */
  async stop(...ended: readonly ChildProcess[]): Promise<void> {
    for (const child of ended) {
      const gone = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGTERM')
      await gone
    }
  }

  close(): void {
    for (const child of this.children) child.kill('SIGKILL')
    rmSync(this.folder, { recursive: true, force: true })
  }
}
