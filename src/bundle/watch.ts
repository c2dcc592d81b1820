/**
 * Watches the bundles folder and activates what settles there and passes every check: archive limits, module,
 * trial run. One bundle is active. Whatever fails leaves the last good one serving and says why in `status`.
 */
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { type FSWatcher, watch } from 'chokidar'
import type { Log } from '../domain/log.ts'
import { asGateError, GateError } from '../errors.ts'
import type { BundleCost, PolicyPackage } from '../messages.ts'
import { findInputUsage } from '../policy/input-usage.ts'
import { prepareModule } from '../policy/module.ts'
import { type ArchiveLimits, type BundleContent, readArchive } from './archive.ts'
import { vet } from './vet.ts'

export interface BundlesOptions {
  readonly directory: string
  /** Entrypoints that routes use at first; see `require`. */
  readonly decisions: readonly string[]
  readonly limits: ArchiveLimits & {
    readonly maxMemoryBytes: number
    readonly vetTimeoutMs: number
    /** Quiet time after the last change before a file is read. */
    readonly settleMs: number
  }
  readonly onActivate: (policy: PolicyPackage) => void
  /** A candidate was refused; the message is in `status` as well. */
  readonly onRefused: () => void
  readonly log: Log
}

/** Names follow OPA's bundle status. */
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
  /** Of the active bundle: what its trial run cost, and what is doubtful about it. */
  readonly cost: BundleCost | null
  readonly warnings: readonly string[]
}

/** A worker stands still while it copies them, about 50 ms, which is noticed by everyone it serves. */
const maxDataBytes = 32 << 20

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
    warnings: [],
  }

  constructor(options: BundlesOptions) {
    this.#options = options
    this.#decisions = options.decisions
  }

  /**
   * From now on these entrypoints are needed. The active bundle is tried with them first.
   * @throws GateError ERR_BUNDLE_POLICY, ERR_BUNDLE_TRIAL; then the entrypoints before go on being the ones needed
   */
  async require(decisions: readonly string[]): Promise<void> {
    const { maxMemoryBytes, vetTimeoutMs } = this.#options.limits
    // Behind a load that is under way: its bundle is the one to be asked.
    const tried = this.#work.then(async () => {
      const added = decisions.some((decision) => !this.#decisions.includes(decision))
      if (this.#active !== undefined && added) {
        const { module, initialPages, data, reads } = this.#active
        await vet({ module, initialPages, data, reads, maxMemoryBytes, decisions }, vetTimeoutMs)
      }
      this.#decisions = decisions
    })
    this.#work = tried.catch(() => {})
    await tried
  }

  /** Loads what is there and goes on watching; a missing or bad bundle is in `status`, not an error here. */
  async open(): Promise<void> {
    const { directory, log } = this.#options
    const watcher = watch(directory, { depth: 0, ignoreInitial: true })
    this.#watcher = watcher
    watcher.on('all', (_event, path) => {
      if (path.endsWith(suffix)) this.#settle()
    })
    watcher.on('error', (error) => {
      log.error({ err: error }, 'the bundles folder cannot be watched')
      this.#note(asGateError(error, 'ERR_BUNDLE_READ'))
    })
    await new Promise<void>((resolve) => watcher.once('ready', () => resolve()))
    await this.#load()
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

  /** One load at a time; a change during a load is loaded after it. */
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
    const content = await readArchive(bytes, limits)
    if (content.digest === this.#active?.digest) {
      // The folder holds the active bundle again: whatever was wrong in between is over.
      const { code, active_revision: revision } = this.#status
      this.#status = { ...this.#status, code: null, message: null, hint: null }
      if (code !== null) log.info({ bundle: name, revision }, 'the active bundle is in place again')
      return
    }
    const { bytes: wasm, initialPages } = prepareModule(content.wasm)
    const module = await compile(wasm)
    const reads = findInputUsage(content.wasm)
    const { maxMemoryBytes } = limits
    const { cost, data } = await vet(
      { module, initialPages, data: content.data, reads, maxMemoryBytes, decisions },
      limits.vetTimeoutMs,
    )
    if (this.#closed) return
    const generation = this.#status.generation + 1
    this.#active = {
      generation,
      bundle: name,
      revision: content.revision,
      digest: content.digest,
      module,
      initialPages,
      data,
      reads,
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
      warnings: warningsOf(content, data.bytes.length),
    }
    log.info({ bundle: name, revision: content.revision, generation, cost }, 'policy activated')
    for (const warning of this.#status.warnings) log.warn({ bundle: name, generation }, warning)
    onActivate(this.#active)
  }

  /** The one bundle in the folder, read whole only when it has kept still. */
  async #read(): Promise<{ name: string; bytes: Buffer }> {
    const { directory, limits } = this.#options
    const files = (await readdir(directory)).filter((file) => file.endsWith(suffix)).sort()
    const [file, another] = files
    if (file === undefined) {
      throw new GateError('ERR_BUNDLE_READ', `there is no *${suffix} in ${directory}`, {
        hint: 'run `dropgate build`, or copy a built bundle there',
      })
    }
    if (another !== undefined) {
      throw new GateError(
        'ERR_BUNDLE_READ',
        `there is more than one bundle in ${directory}: ${files.join(', ')}`,
        {
          hint: 'keep one; this release serves a single bundle',
        },
      )
    }
    const path = join(directory, file)
    const before = await stat(path)
    if (before.size > limits.maxBundleBytes) {
      throw new GateError('ERR_BUNDLE_LIMITS', `${file} has ${before.size} bytes`, {
        hint: 'raise policy.max_bundle if that is intended',
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

function warningsOf(content: BundleContent, dataBytes: number): string[] {
  const warnings = content.hazards.map((hazard) => `the bundle may not be what it seems: ${hazard}`)
  if (dataBytes > maxDataBytes) {
    warnings.push(
      `its data takes ${dataBytes >> 20} MiB in every worker, which serves nobody while it copies them (1 to 2 ms each): keep what changes often, or is large, out of the bundle`,
    )
  }
  return warnings
}

async function compile(bytes: Uint8Array): Promise<WebAssembly.Module> {
  try {
    return await WebAssembly.compile(bytes)
  } catch (error) {
    throw new GateError('ERR_BUNDLE_POLICY', 'policy.wasm does not compile', { cause: error })
  }
}
