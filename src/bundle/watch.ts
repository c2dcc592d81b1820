/**
 * Watches the bundles folder. A bundle that has stopped changing and passes every check (archive limits, module,
 * trial run) becomes the active policy. If it fails, the previous bundle stays active and `status` says why.
 */
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { type FSWatcher, watch } from 'chokidar'
import type { Log } from '../domain/log.ts'
import { asGateError, GateError } from '../errors.ts'
import type { BodyUses } from '../policy/body-use.ts'
import type { PolicyPackage } from '../policy/package.ts'
import type { ArchiveLimits } from './archive.ts'
import type { BundleCost } from './cost.ts'
import { type TrialLimits, tryPolicy } from './trial.ts'
import { unpack } from './unpack.ts'
import { vet } from './vet.ts'

export interface BundlesOptions {
  readonly directory: string
  /** Entrypoints that the routes use at the start; `require` changes them. */
  readonly decisions: readonly string[]
  readonly limits: ArchiveLimits &
    TrialLimits & {
      /** How long a file must stay unchanged before it is read. */
      readonly settleMs: number
    }
  readonly onActivate: (policy: PolicyPackage) => void
  /** Called when a new bundle was refused; the reason is in `status` as well. */
  readonly onRefused: () => void
  readonly log: Log
}

/** State of the bundle for operators; the names follow OPA's bundle status. */
export interface BundleStatus {
  readonly name: string | null
  readonly active_revision: string | null
  readonly digest: string | null
  readonly generation: number
  readonly last_request: string | null
  readonly last_successful_activation: string | null
  readonly code: string | null
  readonly message: string | null
  readonly hint: string | null
  /** Cost of the active bundle in its trial run. `warnings`, below, are doubts about how it was built. */
  readonly cost: BundleCost | null
  /** For each entrypoint that routes use: whether the active bundle reads request bodies. */
  readonly bodies: BodyUses | null
  readonly warnings: readonly string[]
}

const suffix = '.tar.gz'

export class Bundles {
  readonly #options: BundlesOptions
  #watcher: FSWatcher | undefined
  #timer: NodeJS.Timeout | undefined
  #work: Promise<void> = Promise.resolve()
  #closed = false
  #decisions: readonly string[]
  #active: PolicyPackage | undefined
  #status: BundleStatus = {
    name: null,
    active_revision: null,
    digest: null,
    generation: 0,
    last_request: null,
    last_successful_activation: null,
    code: null,
    message: null,
    hint: null,
    cost: null,
    bodies: null,
    warnings: [],
  }

  constructor(options: BundlesOptions) {
    this.#options = options
    this.#decisions = options.decisions
  }

  /**
   * Changes the entrypoints that every bundle must have. The active bundle is tried with the new ones first.
   * @throws GateError ERR_BUNDLE_POLICY, ERR_BUNDLE_TRIAL; then the old entrypoints stay required.
   */
  async require(decisions: readonly string[]): Promise<void> {
    const { maxMemoryBytes, evaluationMs, vetTimeoutMs } = this.#options.limits
    // Wait for a load that is under way: the bundle that it activates must be tried.
    const tried = this.#work.then(async () => {
      const added = decisions.some((decision) => !this.#decisions.includes(decision))
      if (this.#active !== undefined && added) {
        const { data, ...policy } = this.#active
        const { bodies } = await vet(
          { policy, data, maxMemoryBytes, evaluationMs, decisions },
          vetTimeoutMs,
        )
        this.#status = { ...this.#status, bodies }
      }
      this.#decisions = decisions
    })
    this.#work = tried.catch(() => {})
    await tried
  }

  /**
   * Loads the bundle in the folder and starts watching. A missing or bad bundle is reported in `status`, not thrown.
   */
  async open(): Promise<void> {
    const { directory, log } = this.#options
    const watcher = watch(directory, { depth: 0, ignoreInitial: true })
    this.#watcher = watcher
    watcher.on('all', (_event, path) => {
      if (path.endsWith(suffix)) this.#settle()
    })
    watcher.on('error', (error) => {
      log.error({ err: error }, 'the bundles folder cannot be watched for changes')
      this.#note(asGateError(error, 'ERR_BUNDLE_READ'))
    })
    await new Promise<void>((resolve) => watcher.once('ready', () => resolve()))
    await this.#load()
  }

  /** The active policy has its data, with all changes, in another image: the old one need not be kept. */
  renew(policy: PolicyPackage): void {
    if (this.#active?.generation === policy.generation) this.#active = policy
  }

  status(): BundleStatus {
    return this.#status
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    await this.#watcher?.close()
    await this.#work
  }

  #settle(): void {
    clearTimeout(this.#timer)
    if (this.#closed) return
    this.#timer = setTimeout(() => void this.#load(), this.#options.limits.settleMs)
  }

  /** Starts a load after the one under way: one load at a time. */
  #load(): Promise<void> {
    this.#work = this.#work.then(async () => {
      if (this.#closed) return
      this.#status = { ...this.#status, last_request: new Date().toISOString() }
      try {
        await this.#loadOnce()
      } catch (error) {
        this.#note(asGateError(error, 'ERR_BUNDLE_READ'))
      }
    })
    return this.#work
  }

  async #loadOnce(): Promise<void> {
    const { limits, onActivate, log } = this.#options
    const decisions = this.#decisions
    const { name, bytes } = await this.#read()
    const content = await unpack(bytes, limits)
    if (content.digest === this.#active?.digest) {
      // The folder contains the active bundle again, so an earlier problem is over.
      const { code, active_revision: revision } = this.#status
      this.#status = { ...this.#status, code: null, message: null, hint: null }
      if (code !== null)
        log.info({ bundle: name, revision }, 'the bundles folder contains the active bundle again')
      return
    }
    const { cost, bodies, warnings, ...policy } = await tryPolicy(content, limits, decisions)
    if (this.#closed) return
    const generation = this.#status.generation + 1
    this.#active = {
      generation,
      bundle: name,
      revision: content.revision,
      digest: content.digest,
      ...policy,
      places: content.places,
    }
    this.#status = {
      name,
      active_revision: content.revision,
      digest: content.digest,
      generation,
      last_request: this.#status.last_request,
      last_successful_activation: new Date().toISOString(),
      code: null,
      message: null,
      hint: null,
      cost,
      bodies,
      warnings,
    }
    log.info({ bundle: name, revision: content.revision, generation, cost }, 'policy activated')
    for (const warning of this.#status.warnings) log.warn({ bundle: name, generation }, warning)
    onActivate(this.#active)
  }

  /** Finds the only bundle in the folder. Reads it only when its size and time have stopped changing. */
  async #read(): Promise<{ name: string; bytes: Buffer }> {
    const { directory, limits } = this.#options
    const files = (await readdir(directory)).filter((file) => file.endsWith(suffix)).sort()
    const [file, another] = files
    if (file === undefined) {
      throw new GateError('ERR_BUNDLE_READ', `there is no *${suffix} in ${directory}`, {
        hint: 'run `dropgate build`, or copy a built bundle into the folder',
      })
    }
    if (another !== undefined) {
      throw new GateError(
        'ERR_BUNDLE_READ',
        `there is more than one bundle in ${directory}: ${files.join(', ')}`,
        {
          hint: 'keep one file; dropgate serves a single bundle',
        },
      )
    }
    const path = join(directory, file)
    const before = await stat(path)
    if (before.size > limits.maxBundleBytes) {
      throw new GateError('ERR_BUNDLE_LIMITS', `${file} is too large: ${before.size} bytes`, {
        hint: 'raise policy.max_bundle if the bundle is meant to be this large',
      })
    }
    const bytes = await readFile(path)
    return { name: basename(file, suffix), bytes }
  }

  #note(error: GateError): void {
    const { code, message } = error
    this.#status = { ...this.#status, code, message, hint: error.hint ?? null }
    this.#options.onRefused()
    this.#options.log.error(
      { code, hint: error.hint, active_revision: this.#status.active_revision },
      `the bundle is refused: ${message}`,
    )
  }
}
