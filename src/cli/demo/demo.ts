/** `demo` (`make start`): a gate with everything it needs on this machine, and the lines to try it with. */
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { loadConfig } from '../../config/load.ts'
import type { GateConfig } from '../../config/options.ts'
import { GateError } from '../../errors.ts'
import { Gate, type GateLog } from '../../gate.ts'
import { databaseUrl } from '../database.ts'
import { print } from '../output.ts'
import { untilSignal } from '../serve.ts'
import type { WorldReport, WorldStart } from './world.ts'

const readyMs = 30_000

export async function demo(file: string): Promise<number> {
  const { config } = loadConfig(file, {})
  const stopped = untilSignal({ info: () => print('\nstopping ...') })
  const gate = new Gate(config, { log: shortLog() })
  const { world, token } = await startWorld(config)
  try {
    const opened = gate.open().then(() => untilReady(gate))
    await Promise.race([opened, stopped])
    if (gate.readiness().ready) print(instructions(config, gate, token))
    await stopped
  } finally {
    await gate.close()
    await world.terminate()
  }
  return 0
}

async function startWorld(config: GateConfig): Promise<{ world: Worker; token: string }> {
  const [issuer] = config.issuers
  const start: WorldStart = {
    issuer: issuer!.issuer,
    audience: issuer!.audience[0]!,
    upstream: config.routes[0]!.upstream,
  }
  const world = new Worker(new URL('./world.ts', import.meta.url), {
    workerData: start,
    name: 'demo',
  })
  const report = await new Promise<WorldReport>((resolve, reject) => {
    world.once('message', resolve)
    world.once('error', reject)
  })
  if (report.type === 'ready') return { world, token: report.token }
  await world.terminate()
  throw new GateError('ERR_LISTEN', `the demo's issuer or upstream: ${report.message}`, {
    hint: 'stop what listens there, or change the ports in dropgate.yaml',
  })
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

function instructions(config: GateConfig, gate: Gate, token: string): string {
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
    '2. Revoke her: one row.',
    `  npm run -s dropgate -- sql "${insert}"`,
  ]
  if (onPath('psql'))
    lines.push('', '   or with psql:', `  psql "${databaseUrl(config, 'cli_url')}" -c "${insert}"`)
  lines.push(
    '',
    '3. The same request is refused: 401, ERR_REVOKED.',
    `  curl -i -H "Authorization: Bearer $TOKEN" ${origin}/orders`,
    '',
    '4. See the row, take it back, and sign in again. Tokens from before the lift stay dead, and those of the 5 s',
    '   after it, by which clocks may differ.',
    '  npm run -s dropgate -- list',
    '  npm run -s dropgate -- lift 1',
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

/** The demo's terminal is for the lines to paste: only what went wrong is said, in words. */
function shortLog(): GateLog {
  const say = (_fields: object, message: string): void => {
    process.stderr.write(`${message}\n`)
  }
  return { info: () => {}, warn: say, error: say }
}
