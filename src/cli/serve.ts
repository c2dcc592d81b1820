/** `serve`: one gate until SIGTERM or SIGINT, which drain it. */

import { loadConfig } from '../config/load.ts'
import { Gate, type GateLog } from '../gate.ts'
import { RouteTable } from '../route/table.ts'
import { jsonLog } from './output.ts'

/** Below this, Node has published holes that concern a proxy (brotli, response queues). */
const nodeFloor = [24, 22, 1] as const

export async function serve(file: string): Promise<number> {
  const log = jsonLog()
  const { config } = loadConfig(file, process.env)
  warnOfNode(log)
  const gate = new Gate(config, { log })
  const stopped = untilSignal(log)
  const opened = gate.open().then(() => {
    log.info({ ...gate.address() }, 'listening')
  })
  await Promise.race([opened, stopped])
  await stopped
  await gate.close()
  log.info({}, 'stopped')
  return 0
}

/** `config check`: reads everything that a start would read, and starts nothing. */
export function checkConfig(file: string): { file: string; routes: number; issuers: number } {
  const loaded = loadConfig(file, process.env)
  const { routes, issuers } = loaded.config
  new RouteTable(routes)
  return { file: loaded.file, routes: routes.length, issuers: issuers.length }
}

/** Resolves at the first signal; a second one ends the process at once. */
export function untilSignal(log: Pick<GateLog, 'info'>): Promise<void> {
  return new Promise((resolve) => {
    let asked = false
    const stop = (signal: NodeJS.Signals): void => {
      if (asked) process.exit(1)
      asked = true
      log.info({ signal }, 'draining; a second signal ends it at once')
      resolve()
    }
    process.on('SIGTERM', stop)
    process.on('SIGINT', stop)
  })
}

function warnOfNode(log: GateLog): void {
  const [major = 0, minor = 0, patch = 0] = process.versions.node.split('.').map(Number)
  const [a, b, c] = nodeFloor
  const old = major < a || (major === a && (minor < b || (minor === b && patch < c)))
  if (old) {
    log.warn(
      { node: process.versions.node, floor: nodeFloor.join('.') },
      'this Node.js has known security holes that a newer one has closed',
    )
  }
}
