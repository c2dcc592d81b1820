/** `serve`: one gate until it is asked to stop, which drains it. */

import { unwatchFile, watchFile } from 'node:fs'
import { loadConfig } from '../config/load.ts'
import type { Log } from '../domain/log.ts'
import { asGateError } from '../errors.ts'
import { Gate } from '../gate/gate.ts'
import { RouteTable } from '../route/table.ts'
import { checkUpstreams } from '../upstream/addresses.ts'
import { jsonLog } from './output.ts'
import { untilStopped } from './stop.ts'

/** Below this, Node has published holes that concern a proxy (brotli, response queues). */
const nodeFloor = [24, 22, 1] as const

export async function serve(file: string): Promise<number> {
  const log = jsonLog()
  const { config, files } = loadConfig(file, process.env)
  warnOfNode(log)
  const gate = new Gate(config, { log })
  const stopped = untilStopped(({ cause, atOnce }) =>
    log.info({ cause, open: gate.liveCount }, `draining; ${atOnce}`),
  )
  const opened = gate.open()
  const listening = opened.then(async () => {
    await gate.listening()
    log.info({ ...gate.address() }, 'listening')
    await stopped
  })
  // A gate that waits to take another over follows its configuration, too.
  await Promise.race([opened, listening, stopped])
  const unfollow = followConfig(gate, { file, files, log, signal: 'SIGHUP' })
  await Promise.race([listening, stopped])
  unfollow()
  await gate.close()
  log.info({}, 'stopped')
  return 0
}

/** How often the files are looked at; changes by rename are seen too, as mounted configuration makes them. */
const lookMs = 1000

interface Following {
  readonly file: string
  /** Those that were read for it. */
  readonly files: readonly string[]
  readonly log: Log
  /** Asks for it as well. */
  readonly signal: 'SIGHUP' | undefined
}

/** Reloads at the signal and when one of the files has changed. @returns what ends it */
export function followConfig(gate: Gate, { file, files, log, signal }: Following): () => void {
  let watched = files
  const reload = (): void => {
    const refused = (thrown: unknown): void => {
      const error = asGateError(thrown)
      gate.noteUnusable(error)
      log.error(
        { code: error.code, hint: error.hint },
        `the configuration is refused, the one before goes on: ${error.message}`,
      )
    }
    try {
      const loaded = loadConfig(file, process.env)
      watch(loaded.files)
      gate.reload(loaded.config).catch(refused)
    } catch (error) {
      refused(error)
    }
  }
  const watch = (next: readonly string[]): void => {
    for (const each of watched) if (!next.includes(each)) unwatchFile(each, reload)
    for (const each of next)
      if (!watched.includes(each)) watchFile(each, { interval: lookMs }, reload)
    watched = next
  }
  for (const each of files) watchFile(each, { interval: lookMs }, reload)
  if (signal !== undefined) process.on(signal, reload)
  return () => {
    if (signal !== undefined) process.off(signal, reload)
    for (const each of watched) unwatchFile(each, reload)
  }
}

/** `config check`: reads everything that a start would read, and starts nothing. */
export function checkConfig(file: string): { file: string; routes: number; issuers: number } {
  const loaded = loadConfig(file, process.env)
  const { routes, issuers } = loaded.config
  new RouteTable(routes)
  checkUpstreams(loaded.config)
  return { file: loaded.file, routes: routes.length, issuers: issuers.length }
}

function warnOfNode(log: Log): void {
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
