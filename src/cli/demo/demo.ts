/**
 * The command `demo` (`make start`): starts a gate with everything it needs on this machine, and prints commands to
 * try.
 */
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { loadConfig } from '../../config/load.ts'
import type { GateConfig } from '../../config/options.ts'
import type { Log } from '../../domain/log.ts'
import { threadFile } from '../../domain/thread-file.ts'
import { fetchPostgres } from '../../embedded/binaries.ts'
import { GateError } from '../../errors.ts'
import { Gate } from '../../gate/gate.ts'
import { withClient } from '../../store/connect.ts'
import { databaseUrl } from '../database.ts'
import { print } from '../output.ts'
import { followConfig } from '../serve.ts'
import { untilStopped } from '../stop.ts'
import { demoFiles } from './files.ts'
import type { WorldReport, WorldStart } from './world.ts'

const readyMs = 30_000

export async function demo(given: string): Promise<number> {
  const { file } = demoFiles(given)
  const { config, files } = loadConfig(file, {})
  if (config.database.embedded !== undefined) await fetchPostgres(print)
  const log = new ShortLog()
  const gate = new Gate(config, { log })
  // Closing the terminal ends the demo too.
  const stopped = untilStopped(
    () => print(farewell(gate.liveCount, config)),
    ['SIGINT', 'SIGTERM', 'SIGHUP'],
  )
  const { world, token } = await startWorld(config)
  let unfollow = (): void => {}
  try {
    const opened = gate.open().then(() => untilReady(gate))
    await Promise.race([opened, stopped])
    if (gate.readiness().ready) {
      const nextId = await startAfresh(config)
      print(instructions({ config, gate, token, nextId }))
      log.talks = true
      unfollow = followConfig(gate, { file, files, log }).unfollow
    }
    await stopped
  } finally {
    unfollow()
    await gate.close()
    await world.terminate()
  }
  return 0
}

function farewell(open: number, { drain_timeout }: GateConfig): string {
  if (open === 0) return '\nstopping ...'
  const what = open === 1 ? 'one open exchange' : `${open} open exchanges`
  return `\nstopping: ${what} may continue for up to ${drain_timeout / 1000} s; press Ctrl-C again to stop at once`
}

/** Deletes the revocations of alice from an earlier demo. @returns The id that the next row will get. */
async function startAfresh(config: GateConfig): Promise<number | undefined> {
  // Delete rows only in the demo's own database.
  if (config.database.embedded === undefined) return undefined
  const url = databaseUrl(config, 'migrate_url')
  const table = `${config.database.schema}.revocations`
  return await withClient({ url, kind: 'demo' }, async (client) => {
    const { rowCount } = await client.query(`DELETE FROM ${table} WHERE subject = 'alice'`)
    if (rowCount! > 0) print('\nThe revocations of alice from last time are deleted.')
    const { rows } = await client.query(
      `SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence($1, 'id')), 0)::int AS last`,
      [table],
    )
    return rows[0].last + 1
  })
}

async function startWorld(config: GateConfig): Promise<{ world: Worker; token: string }> {
  const [issuer] = config.issuers
  const start: WorldStart = {
    issuer: issuer!.issuer,
    audience: issuer!.audience[0]!,
    upstream: config.routes[0]!.upstream,
  }
  const world = new Worker(threadFile('./world', import.meta.url), {
    workerData: start,
    name: 'demo',
  })
  const report = await new Promise<WorldReport>((resolve, reject) => {
    world.once('message', resolve)
    world.once('error', reject)
  })
  if (report.type === 'ready') return { world, token: report.token }
  await world.terminate()
  throw new GateError(
    'ERR_LISTEN',
    `the demo's issuer or upstream did not start: ${report.message}`,
    {
      hint: 'if the demo is already running, use that one; otherwise stop the program that listens on the port, or change the ports in dropgate.yaml',
    },
  )
}

interface Scene {
  readonly config: GateConfig
  readonly gate: Gate
  readonly token: string
  readonly nextId: number | undefined
}

async function untilReady(gate: Gate): Promise<void> {
  const until = Date.now() + readyMs
  while (!gate.readiness().ready) {
    if (Date.now() > until) {
      throw new GateError(
        'ERR_TIMEOUT',
        `the gate is not ready: ${gate.readiness().reasons.join('; ')}`,
      )
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

function instructions({ config, gate, token, nextId }: Scene): string {
  const [port] = gate.address().ports
  const [issuer] = config.issuers
  const origin = `http://127.0.0.1:${port}`
  const insert =
    "INSERT INTO dropgate.revocations (subject, reason) VALUES ('alice', 'left the company')"
  const lines = [
    '',
    `dropgate is ready on ${origin}. In a second terminal, in this folder:`,
    '',
    `  TOKEN=${token}`,
    '',
    '1. Alice is a clerk: her request is allowed.',
    `  curl -i -H "Authorization: Bearer $TOKEN" ${origin}/orders`,
    '',
    '2. She may also open a stream: it sends a line every second.',
    `  curl -N -H "Authorization: Bearer $TOKEN" ${origin}/orders/news &`,
    '  npm run -s dropgate -- live',
    '',
    '3. Revoke her access by inserting one row.',
    `  npm run -s dropgate -- sql "${insert}"`,
  ]
  if (onPath('psql'))
    lines.push('', '   or with psql:', `  psql "${databaseUrl(config, 'cli_url')}" -c "${insert}"`)
  lines.push(
    '',
    '   Her open stream has ended, and the same request is refused: 401, ERR_REVOKED.',
    `  curl -i -H "Authorization: Bearer $TOKEN" ${origin}/orders`,
    '',
    '4. See the row, lift it, and sign in again. Tokens from before the lift stay revoked, and so do those of the 5 s',
    '   after it, because clocks may differ by that much.',
    '  npm run -s dropgate -- list',
    `  npm run -s dropgate -- lift ${nextId ?? 'ID'}`,
    `  sleep 6; TOKEN=$(curl -s "${issuer!.issuer}/token?subject=alice&role=clerk")`,
    '',
    '5. Change a rule. A clerk may not read reports (403, ERR_POLICY_DENIED):',
    `  curl -i -H "Authorization: Bearer $TOKEN" ${origin}/reports`,
    '   Add { "methods": ["GET"], "path": ["reports"] } to the list of the clerk in policies/data.json, then',
    '  make bundle',
    `  curl -i -H "Authorization: Bearer $TOKEN" ${origin}/reports`,
    '',
    '   (make bundle needs opa, or Go to install it.)   Ctrl-C ends everything.',
    '',
  )
  return lines.join('\n')
}

function onPath(name: string): boolean {
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/**
 * A short log: the demo's terminal is for the commands to paste, so only problems are printed at first, and changes
 * later.
 */
class ShortLog implements Log {
  talks = false

  info(_fields: object, message: string): void {
    if (this.talks) this.#say(message)
  }

  warn(_fields: object, message: string): void {
    this.#say(message)
  }

  error(_fields: object, message: string): void {
    this.#say(message)
  }

  #say(message: string): void {
    process.stderr.write(`${message}\n`)
  }
}
