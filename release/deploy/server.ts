/** An empty PostgreSQL with one superuser `postgres`, as the image of that name has it before its first script runs. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { postgresFolder } from '../../src/embedded/binaries.ts'
import { freePort } from '../../test/bench/machine.ts'
import { until } from '../../test/harness/wait.ts'

/** PostgreSQL refuses to run as root. */
const nobody = 65534

export class EmptyServer {
  readonly #folder = mkdtempSync(join(tmpdir(), 'dropgate-server-'))
  #server: ChildProcess | undefined
  port = 0

  async open(): Promise<void> {
    const programs = join(postgresFolder(), 'bin')
    const data = join(this.#folder, 'data')
    mkdirSync(data)
    chmodSync(this.#folder, 0o711)
    chownSync(data, nobody, nobody)
    const as = { uid: nobody, gid: nobody, cwd: '/' }
    const init = ['-D', data, '-U', 'postgres', '--auth=trust', '--no-sync', '--locale=C']
    const done = spawnSync(join(programs, 'initdb'), init, { ...as, encoding: 'utf8' })
    if (done.status !== 0) throw new Error(`initdb: ${done.error ?? done.stderr}`)
    this.port = await freePort()
    const args = ['-D', data, '-p', String(this.port), '-h', '127.0.0.1', '-k', '']
    this.#server = spawn(join(programs, 'postgres'), args, { ...as, stdio: 'ignore' })
    await until('PostgreSQL', () => this.#answers())
  }

  #answers(): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = connect(this.port, '127.0.0.1')
      socket.once('error', () => resolve(false))
      socket.once('connect', () => {
        socket.destroy()
        resolve(true)
      })
    })
  }

  async close(): Promise<void> {
    const server = this.#server
    if (server !== undefined) {
      const ended = new Promise((resolve) => server.once('exit', resolve))
      server.kill('SIGINT')
      await ended
    }
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
