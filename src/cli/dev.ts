/**
 * `dev`: builds the policies at each save and loads what is good into a gate. A save that does not compile, fails a test or
 * would be refused by a gate is shown with file and line, and the last good policy keeps serving.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { type BuildResult, buildBundle } from '../bundle/build.ts'
import { SourceWatch } from '../bundle/source-files.ts'
import type { BundleStatus } from '../bundle/watch.ts'
import { type LoadedConfig, loadGateConfig } from '../config/load.ts'
import type { Log } from '../domain/log.ts'
import { asGateError, type GateError } from '../errors.ts'
import { Gate } from '../gate/gate.ts'
import { askGate } from './admin.ts'
import { type BuildSettings, printFindings, settingsOf } from './build.ts'
import type { CommonOptions } from './command.ts'
import { print, printError, root } from './output.ts'
import { followConfig } from './serve.ts'

/** How long the gate may take to load a bundle until that is reported as a failure. */
const loadMs = 20_000
/** How long open exchanges may go on after the request to stop. */
const drainMs = 500

type DevOptions = CommonOptions & { readonly v0Compatible?: boolean }

/** What `/v1/status` says of the policy. */
interface PolicyStatus {
  readonly policy: BundleStatus
  readonly workers: readonly { readonly policy_revision: string | null }[]
}

/** @param stopped Resolves when the user wants to end it. @throws GateError */
export async function dev(
  policies: string,
  options: DevOptions,
  stopped: Promise<void>,
): Promise<void> {
  const loaded = loadGateConfig(options.config, process.env)
  const session = new Session(policies, options, loaded.config.policy.bundles)
  const watching = new SourceWatch(policies, () => session.round())
  // Also while the gate starts: nothing waits for a bundle any more.
  void stopped.then(() => session.end())
  let close = async (): Promise<void> => {}
  try {
    await watching.open()
    // Before the gate starts, so that the first policy that it loads is that of the sources.
    const first = await session.build()
    if (await isRunning(options.config)) {
      session.say('a gate runs with this configuration: it gets the bundles')
      session.ask = async () => (await askGate(options.config, '/v1/status')).document as PolicyStatus
    } else {
      const started = await startGate(loaded, session)
      close = started.close
      session.ask = async () => started.gate.status() as PolicyStatus
    }
    await session.report(first)
    session.begin()
    session.say(`watching ${policies}; Ctrl-C ends it`)
    await stopped
  } finally {
    session.end()
    await Promise.all([watching.close(), close()])
  }
} // biome-ignore format: one line a case

async function isRunning(file: string): Promise<boolean> {
  try {
    await askGate(file, '/v1/status')
    return true
  } catch {
    return false
  }
}

async function startGate(
  { config, file, files }: LoadedConfig,
  session: Session,
): Promise<{ readonly gate: Gate; readonly close: () => Promise<void> }> {
  // The bundle is renamed into its place: it is whole when it is seen.
  const policy = { ...config.policy, settle: 0 }
  const gate = new Gate({ ...config, policy, drain_timeout: drainMs }, { log: session.log })
  await gate.open()
  const { unfollow } = followConfig(gate, { file, files, log: session.log })
  const close = async (): Promise<void> => {
    unfollow()
    await gate.close()
  }
  try {
    await gate.listening()
  } catch (error) {
    unfollow()
    throw error
  }
  const { ports, adminPort } = gate.address()
  session.say(`the gate listens on port ${ports.join(', ')}, for operators on ${adminPort}`, {
    ports,
    adminPort,
  })
  return { gate, close }
}

interface Round {
  readonly built: BuildResult | undefined
  readonly error: GateError | undefined
  readonly beganMs: number
}

/** The rounds of one `dev`: each builds, waits for the gate, and says what came of it. */
class Session {
  readonly #policies: string
  readonly #options: DevOptions
  readonly #settings: BuildSettings
  readonly #out: string
  #isEnding = false
  readonly #begun = Promise.withResolvers<void>()
  /** Asks the gate. */
  ask: () => Promise<PolicyStatus> = () => Promise.reject(new Error('there is no gate yet'))
  /** The gate's log: what it does by itself is not shown, what goes wrong is. */
  readonly log: Log = {
    info: () => {},
    warn: (_fields, message) => this.say(message),
    error: (_fields, message) => this.say(message),
  }

  constructor(policies: string, options: DevOptions, bundles: string) {
    this.#policies = policies
    this.#options = options
    this.#settings = settingsOf(options)
    this.#out = bundleIn(bundles)
  }

  /** What is saved before the gate has the first bundle is built after that. */
  async round(): Promise<void> {
    await this.#begun.promise
    if (this.#isEnding) return
    await this.report(await this.build())
  }

  begin(): void {
    this.#begun.resolve()
  }

  async build(): Promise<Round> {
    const beganMs = performance.now()
    try {
      const built = await buildBundle({
        policies: this.#policies,
        out: this.#out,
        root,
        v0: this.#options.v0Compatible ?? false,
        ...this.#settings,
        // A policy whose tests fail is not what its author means.
        fatal: ['test'],
      })
      return { built, error: built.error, beganMs }
    } catch (error) {
      return { built: undefined, error: asGateError(error), beganMs }
    }
  }

  /** Waits until the gate decides by what was built, and prints what there is to say. Never rejects. */
  async report({ built, error, beganMs }: Round): Promise<void> {
    const { json = false } = this.#options
    const problem = error ?? (await this.#loaded(built!.revision))
    if (this.#isEnding) return
    const seconds = ((performance.now() - beganMs) / 1000).toFixed(2)
    const serving = await this.#serving()
    if (json) {
      const { error: _, ...found } = built ?? {}
      const failure = problem === undefined ? null : problem.data
      print(JSON.stringify({ ...found, serving, seconds: Number(seconds), error: failure }))
      return
    }
    if (built !== undefined) printFindings(built)
    if (problem === undefined) {
      this.say(`serving ${serving} after ${seconds} s; tests ${built!.tests}`)
      return
    }
    printError(problem, false)
    const stays = serving === null ? 'no policy is loaded yet' : `${serving} keeps serving`
    this.say(`not loaded: ${stays}`)
  }

  /** @returns why the gate does not decide by this bundle, or undefined if it does */
  async #loaded(revision: string): Promise<GateError | undefined> {
    const digest = createHash('sha256').update(readFileSync(this.#out)).digest('hex')
    const endMs = performance.now() + loadMs
    let status: PolicyStatus | undefined
    while (!this.#isEnding && performance.now() < endMs) {
      try {
        status = await this.ask()
      } catch (error) {
        return asGateError(error)
      }
      const { policy, workers } = status
      const everywhere = workers.every((each) => each.policy_revision === revision)
      if (policy.digest === digest && everywhere) return undefined
      await pause(10)
    }
    const { code, message } = status?.policy ?? {}
    return asGateError(
      new Error(`the gate has not loaded the bundle within ${loadMs / 1000} s: ${message ?? 'no reason given'}`),
      code == null ? 'ERR_TIMEOUT' : 'ERR_BUNDLE_READ',
    )
  } // biome-ignore format: short

  async #serving(): Promise<string | null> {
    try {
      return (await this.ask()).policy.active_revision
    } catch {
      return null
    }
  }

  /** @param details For `--json`. */
  say(message: string, details: object = {}): void {
    if (this.#isEnding) return
    if (this.#options.json) print(JSON.stringify({ message, ...details }))
    else print(`${new Date().toTimeString().slice(0, 8)}  ${message}`)
  }

  /** From here on nothing is printed: opa gets the Ctrl-C of the terminal as well, and its failure means nothing. */
  end(): void {
    this.#isEnding = true
    this.begin()
  }
}

/** The bundle in the folder that the gate watches, which may contain only one. */
function bundleIn(bundles: string): string {
  const files = existsSync(bundles) ? readdirSync(bundles) : []
  const [file = 'gate.tar.gz'] = files.filter((name) => name.endsWith('.tar.gz')).sort()
  return relative('', join(bundles, file))
}
