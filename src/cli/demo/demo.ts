/**
 * The command `demo` (`make start`): starts a gate with everything it needs on this machine, says what it is doing, and
 * prints commands to try.
 */
import { relative } from 'node:path'
import { Worker } from 'node:worker_threads'
import { loadConfig } from '../../config/load.ts'
import type { GateConfig } from '../../config/options.ts'
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
import { instructions } from './instructions.ts'
import { choosePorts } from './ports.ts'
import { ShortLog, Steps } from './steps.ts'
import type { WorldReport, WorldStart } from './world.ts'

const readyMs = 30_000

export async function demo(file: string): Promise<number> {
  const steps = new Steps()
  try {
    await run(file, steps)
  } finally {
    // An error is printed on a line of its own.
    steps.end()
  }
  return 0
}

async function run(given: string, steps: Steps): Promise<void> {
  const startedAt = performance.now()
  const files = demoFiles(given)
  const { database } = loadConfig(files.file, process.env, ['database.embedded']).config
  if (database.embedded !== undefined) await fetchPostgres((what) => steps.begin(what))
  steps.end()
  if (files.made)
    steps.say(`made the folder ${relative('', files.folder)}: the demo keeps its files there`)
  const chosen = await choosePorts(files.file, process.env, (message) => steps.say(message))
  const { config } = chosen
  const log = new ShortLog(steps)
  const gate = new Gate(config, { log })
  // Closing the terminal ends the demo too.
  const stopped = untilStopped(() => {
    steps.end()
    print('')
    steps.begin(farewell(gate.liveCount, config))
  }, ['SIGINT', 'SIGTERM', 'SIGHUP'])
  steps.begin('starting an issuer and an upstream')
  const { world, token } = await startWorld(config)
  let unfollow = (): void => {}
  try {
    steps.begin('starting the workers and loading the policy')
    const opened = gate.open().then(() => untilReady(gate, steps))
    await Promise.race([opened, stopped])
    if (gate.readiness().ready) {
      const nextId = await startAfresh(config, steps)
      steps.end()
      const seconds = (performance.now() - startedAt) / 1000
      print(instructions({ files, chosen, port: gate.address().ports[0]!, token, nextId, seconds }))
      log.talks = true
      unfollow = followConfig(gate, { file: files.file, files: chosen.files, log }).unfollow
    }
    await stopped
  } finally {
    unfollow()
    // Its streams would go on for ever: they end now, and not when the time for the drain is over.
    world.postMessage('end')
    await gate.close()
    await world.terminate()
  }
}

function farewell(open: number, { drain_timeout }: GateConfig): string {
  if (open === 0) return 'stopping'
  return `stopping; what is open ends within ${drain_timeout / 1000} s`
}

/** Deletes the revocations of alice from an earlier demo. @returns The id that the next row will get. */
async function startAfresh(config: GateConfig, steps: Steps): Promise<number | undefined> {
  // Delete rows only in the demo's own database.
  if (config.database.embedded === undefined) return undefined
  const url = databaseUrl(config, 'migrate_url')
  const table = `${config.database.schema}.revocations`
  return await withClient({ url, kind: 'demo' }, async (client) => {
    const { rowCount } = await client.query(`DELETE FROM ${table} WHERE subject = 'alice'`)
    if (rowCount! > 0) steps.say('the revocations of alice from last time are deleted')
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
      hint: 'the demo runs an issuer and an upstream itself: name ports of this machine (http://127.0.0.1:PORT) in the configuration',
    },
  )
}

async function untilReady(gate: Gate, steps: Steps): Promise<void> {
  steps.begin('loading the revocations')
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
