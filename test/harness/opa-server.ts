/** A real `opa run --server` with a document in memory. */

import { type ChildProcess, spawn } from 'node:child_process'
import { findOpa } from '../../src/bundle/opa.ts'
import { freePort } from '../bench/machine.ts'
import { until } from './wait.ts'

/** It reads its data before it answers. */
const startMs = 200_000

export class OpaServer {
  readonly #process: ChildProcess
  readonly #url: string

  private constructor(process: ChildProcess, url: string) {
    this.#process = process
    this.#url = url
  }

  /** @param flags Further arguments, such as a bundle. */
  static async start(flags: readonly string[] = []): Promise<OpaServer> {
    const port = await freePort()
    const address = `127.0.0.1:${port}`
    const args = [
      'run',
      '--server',
      '--addr',
      address,
      '--log-level=error',
      '--disable-telemetry',
      ...flags,
    ]
    const server = new OpaServer(
      spawn(findOpa(process.cwd()), args, { stdio: 'ignore' }),
      `http://${address}`,
    )
    await until(
      'opa run answers',
      async () => {
        try {
          return (await fetch(`${server.#url}/health`)).ok
        } catch {
          return false
        }
      },
      startMs,
    )
    return server
  }

  get pid(): number {
    return this.#process.pid!
  }

  async put(path: string, value: unknown): Promise<void> {
    const answer = await fetch(this.#url + path, { method: 'PUT', body: JSON.stringify(value) })
    if (!answer.ok) throw new Error(`opa refused the document: ${await answer.text()}`)
  }

  /** @returns whether opa took the change */
  async patch(path: string, operations: readonly object[]): Promise<boolean> {
    const answer = await fetch(this.#url + path, {
      method: 'PATCH',
      body: JSON.stringify(operations),
    })
    await answer.arrayBuffer()
    return answer.ok
  }

  async get(path: string): Promise<unknown> {
    const answer = await fetch(this.#url + path)
    return ((await answer.json()) as { result?: unknown }).result
  }

  async stop(): Promise<void> {
    this.#process.kill('SIGKILL')
    await new Promise((resolve) => this.#process.once('exit', resolve))
  }
}
