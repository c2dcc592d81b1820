/** `serve`: runs one gate until it is asked to stop, then drains it. */
import { unwatchFile, watchFile } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { loadGateConfig } from '../config/load.ts'
import type { Log } from '../domain/log.ts'
import { asGateError } from '../errors.ts'
import { Gate } from '../gate/gate.ts'
import { jsonLog } from './output.ts'
import { ServiceManager } from './service-manager.ts'
import type { Signals } from './signals.ts'

/**
 * Oldest safe release of Node.js: older ones have published security holes that concern a proxy (brotli, response
 * queues).
 */
const nodeFloor = [24, 22, 1] as const

export async function serve(file: string, signals: Signals): Promise<number> {
  // A request to stop that came while the program was loading is heard in the next turn.
  await nextTurn()
  if (signals.isStopping) return 0
  const log = jsonLog()
  const { config, files } = loadGateConfig(file, process.env)
  warnOfNode(log)
  const manager = new ServiceManager(process.env, log)
  const gate = new Gate(config, { log })
  const stopped = signals.stopped.then(({ cause, atOnce }) => {
    manager.stopping(`draining ${gate.liveCount} open exchanges`)
    log.info({ cause, open: gate.liveCount }, `draining; ${atOnce}`)
  })
  const opened = gate.open()
  const listening = opened.then(async () => {
    await gate.listening()
    log.info({ ...gate.address() }, 'listening')
    manager.ready('listening; /readyz of the admin port tells whether it is ready to decide')
    await stopped
  })
  // A gate that waits to take over a port follows its configuration too.
  await Promise.race([opened, listening, stopped])
  const { reload, unfollow } = followConfig(gate, { file, files, log })
  const unlisten = signals.onHangup(() => {
    manager.reloading()
    // Whatever becomes of the configuration: log rotation has moved the file away.
    gate.reopenDecisionLog()
    void reload().then((status) => manager.ready(status))
  })
  await Promise.race([listening, stopped])
  unlisten()
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
}

interface Following {
  /** Never rejects. @returns a sentence that says what came of it */
  readonly reload: () => Promise<string>
  readonly unfollow: () => void
}

/** Reloads the configuration when one of its files has changed, until `unfollow` is called. */
export function followConfig(gate: Gate, { file, files, log }: ConfigSource): Following {
  let watched = files
  const reload = async (): Promise<string> => {
    try {
      const loaded = loadGateConfig(file, process.env)
      watch(loaded.files)
      await gate.reload(loaded.config)
      return 'the new configuration is in use'
    } catch (thrown) {
      const error = asGateError(thrown)
      gate.noteUnusable(error)
      const refused = 'the new configuration is refused, and the gate keeps the old one'
      log.error({ code: error.code, hint: error.hint }, `${refused}: ${error.message}`)
      return refused
    }
  }
  const changed = (): void => void reload()
  const watch = (next: readonly string[]): void => {
    for (const each of watched) if (!next.includes(each)) unwatchFile(each, changed)
    for (const each of next)
      if (!watched.includes(each)) watchFile(each, { interval: lookMs }, changed)
    watched = next
  }
  for (const each of files) watchFile(each, { interval: lookMs }, changed)
  const unfollow = (): void => {
    for (const each of watched) unwatchFile(each, changed)
  }
  return { reload, unfollow }
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
