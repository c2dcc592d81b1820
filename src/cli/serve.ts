/** `serve`: runs one gate until it is asked to stop, then drains it. */
import { unwatchFile, watchFile } from 'node:fs'
import { loadGateConfig } from '../config/load.ts'
import type { Log } from '../domain/log.ts'
import { asGateError } from '../errors.ts'
import { Gate } from '../gate/gate.ts'
import { jsonLog } from './output.ts'
import { untilStopped } from './stop.ts'

/**
 * Oldest safe release of Node.js: older ones have published security holes that concern a proxy (brotli, response
 * queues).
 */
const nodeFloor = [24, 22, 1] as const

export async function serve(file: string): Promise<number> {
  const log = jsonLog()
  const { config, files } = loadGateConfig(file, process.env)
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
  // A gate that waits to take over a port follows its configuration too.
  await Promise.race([opened, listening, stopped])
  const unfollow = followConfig(gate, { file, files, log, signal: 'SIGHUP' })
  await Promise.race([listening, stopped])
  unfollow()
  await gate.close()
  log.info({}, 'stopped')
  return 0
}

/**
 * How often the files are checked. Polling also notices a file that is replaced by a rename, as mounted configuration
 * is.
 */
const lookMs = 1000

interface ConfigSource {
  readonly file: string
  /** The files that the configuration was read from. */
  readonly files: readonly string[]
  readonly log: Log
  /** A signal that causes a reload, besides a changed file. */
  readonly signal: 'SIGHUP' | undefined
}

/**
 * Reloads the configuration at the signal and when one of the files has changed. @returns a function that stops this
 */
export function followConfig(gate: Gate, { file, files, log, signal }: ConfigSource): () => void {
  let watched = files
  const reload = (): void => {
    const refused = (thrown: unknown): void => {
      const error = asGateError(thrown)
      gate.noteUnusable(error)
      log.error(
        { code: error.code, hint: error.hint },
        `the new configuration is refused, and the gate keeps the old one: ${error.message}`,
      )
    }
    try {
      const loaded = loadGateConfig(file, process.env)
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

function warnOfNode(log: Log): void {
  const [major = 0, minor = 0, patch = 0] = process.versions.node.split('.').map(Number)
  const [a, b, c] = nodeFloor
  const old = major < a || (major === a && (minor < b || (minor === b && patch < c)))
  if (old) {
    log.warn(
      { node: process.versions.node, floor: nodeFloor.join('.') },
      'this Node.js release has known security holes that a newer release has fixed',
    )
  }
}
