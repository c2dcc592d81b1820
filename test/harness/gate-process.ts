/** A gate in a process of its own, started by a command: what it logs, its ports, its end. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync, readlinkSync } from 'node:fs'
import { until } from './wait.ts'

/** In a checkout. */
export const gateCommand = ['node_modules/.bin/node', 'bin/dropgate.js'] as const

/** How long a whole gate may take on a machine that is busy with much else. */
const startMs = 120_000

export class GateProcess {
  readonly child: ChildProcess
  /** Exit status or name of the signal. */
  readonly closed: Promise<number | string | null>
  err = ''
  hasEnded = false

  /**
   * It has a session and a process group of its own, and no terminal, as under a service manager. `env` takes out what tap
   * puts into each process that a test starts: it would handle signals beside the gate.
   */
  constructor(command: readonly string[], env: NodeJS.ProcessEnv = process.env) {
    this.child = spawn('/usr/bin/env', ['-u', 'NODE_OPTIONS', ...command], {
      detached: true,
      stdio: ['ignore', 'ignore', 'pipe'],
      env,
    })
    this.child.stderr!.on('data', (data) => {
      this.err += data
    })
    this.closed = new Promise((resolve) =>
      this.child.once('exit', (code, signal) => {
        this.hasEnded = true
        resolve(code ?? signal)
      }),
    )
  }

  get pid(): number {
    return this.child.pid!
  }

  /** How often it has logged this message. */
  count(message: string): number {
    return this.err.split(`"msg":"${message}`).length - 1
  }

  says(message: string, times = 1): Promise<void> {
    const said = () => this.hasEnded || this.count(message) >= times
    return until(() => `${message} in ${this.err}`, said, startMs).then(() => {
      if (this.count(message) < times) throw new Error(`it ended without ${message}: ${this.err}`)
    })
  }

  /** @returns the first port for clients, once it answers by its configuration */
  async ready(): Promise<number> {
    await this.says('listening')
    const line = this.err.split('\n').find((each) => each.includes('"msg":"listening"'))!
    const { ports, adminPort } = JSON.parse(line)
    const readyz = `http://127.0.0.1:${adminPort}/readyz`
    await until('ready', async () => (await fetch(readyz)).status === 200, startMs)
    return ports[0]
  }

  /** Behind wrappers that stay, each with one child: the first process that is Node.js, the gate. */
  async inner(): Promise<number> {
    let found = this.pid
    await until('Node.js behind its wrappers', () => {
      if (/\/node(?: \(deleted\))?$/.test(readlinkSync(`/proc/${found}/exe`))) return true
      const child = readFileSync(`/proc/${found}/task/${found}/children`, 'utf8').trim()
      if (/^\d+$/.test(child)) found = Number(child)
      return false
    })
    return found
  }

  /** Kills it and all that it has started. */
  kill(): void {
    try {
      process.kill(-this.pid, 'SIGKILL')
    } catch {
      // It has ended.
    }
  }
}
