/**
 * The issuers' key sets, on the control thread. Each set is found by discovery, `jwks_uri` or a file, and refreshed in
 * the background; no request waits while usable keys are loaded. When an issuer cannot be reached, its last good set
 * stays in use for `keys_max_stale`, also across a restart (kept-keys.ts). A set without usable keys never replaces a good
 * one.
 */
import type { IssuerConfig } from '../config/options.ts'
import type { FetchDocument } from '../domain/document.ts'
import type { Log } from '../domain/log.ts'
import { asGateError, type GateError } from '../errors.ts'
import type { Jwk } from './admit.ts'
import { KeptKeys } from './kept-keys.ts'
import type { KeySet } from './key-set.ts'
import { PublishedKeys } from './published-keys.ts'

export interface KeyStoreOptions {
  readonly issuers: readonly IssuerConfig[]
  readonly fetchDocument: FetchDocument
  readonly onChange: (set: KeySet) => void
  /** Where the last good sets are kept. */
  readonly folder: string
  readonly log: Pick<Log, 'info' | 'warn'>
}

export interface IssuerStatus {
  readonly issuer: string
  readonly keys: number
  readonly version: number
  readonly last_fetch: string | null
  readonly last_success: string | null
  readonly code: string | null
  readonly message: string | null
}

/** Delay between attempts while the first set is missing; it doubles up to the cooldown. */
const firstRetryMs = 500
/** Least delay between these attempts, where `keys_cooldown` is shorter: they run on the thread that delivers revocations. */
const leastRetryMs = 100
/** Least pause that an issuer can bring about by the headers of its answers, where `keys_cooldown` is shorter. */
const leastPauseMs = 1000

class IssuerKeys {
  readonly config: IssuerConfig
  readonly published: PublishedKeys
  version = 0
  keys: readonly Jwk[] = []
  /** How long the issuer says that the set may be used, in ms. */
  freshMs: number | undefined
  fetchedAt = Number.NEGATIVE_INFINITY
  /** The time of the last attempt by `performance.now()`, a clock that cannot be set back. */
  triedAtMs = Number.NEGATIVE_INFINITY
  goodAt = Number.NEGATIVE_INFINITY
  failures = 0
  error: GateError | undefined
  /** The last warning that was logged for this issuer. */
  said: string | undefined
  /** The published keys that are not used, as last logged. */
  left = ''
  running: Promise<void> | undefined
  keeping: Promise<void> | undefined
  /** Keeping the keys failed, and that was logged. */
  unkept = false
  timer: NodeJS.Timeout | undefined
  /** When the timer is due, by `performance.now()`. */
  dueAtMs = Number.POSITIVE_INFINITY
  /** The issuer was replaced or removed by a reload: ignore the result of a fetch that is still under way. */
  retired = false

  constructor(config: IssuerConfig, fetchDocument: FetchDocument) {
    this.config = config
    this.published = new PublishedKeys(config, fetchDocument)
  }
}

export class KeyStore {
  readonly #options: KeyStoreOptions
  readonly #kept: KeptKeys
  #sources = new Map<string, IssuerKeys>()
  #closed = false

  constructor(options: KeyStoreOptions) {
    this.#options = options
    this.#kept = new KeptKeys(options.folder)
    for (const config of options.issuers)
      this.#sources.set(config.issuer, new IssuerKeys(config, options.fetchDocument))
  }

  /**
   * Resolves once each issuer has its kept keys, or its first attempt is over. An issuer that cannot be reached is shown
   * in `status` and tried again.
   */
  async open(): Promise<void> {
    await Promise.all(
      [...this.#sources.values()].map((source) => {
        this.#restore(source)
        const first = this.#refresh(source)
        return source.keys.length > 0 ? undefined : first
      }),
    )
  }

  #restore(source: IssuerKeys): void {
    const { log } = this.#options
    const { issuer } = source.config
    try {
      const kept = this.#kept.read(source.config, Date.now())
      if (kept === undefined) return
      source.goodAt = kept.goodAt
      this.#change(source, kept.keys)
      const fetched = timeOf(kept.goodAt)
      log.info({ issuer, keys: kept.keys.length, fetched }, 'issuer keys restored from disk')
    } catch (error) {
      const { code, message } = asGateError(error)
      log.warn({ issuer, code }, message)
    }
  }

  /** Keeps the set that was just fetched; requests and further fetches do not wait for it. */
  #keep(source: IssuerKeys): void {
    const { keys, goodAt, config } = source
    source.keeping = Promise.resolve(source.keeping)
      .then(() => this.#kept.write(config, { keys, goodAt }))
      .then(
        () => {
          source.unkept = false
        },
        (error) => {
          const { code, message, hint } = asGateError(error)
          if (!source.unkept) this.#options.log.warn({ issuer: config.issuer, code, hint }, message)
          source.unkept = true
        },
      )
  }

  /**
   * Prepares a reload: fetches the keys of new and changed issuers first. Nothing changes before the returned function
   * is called.
   * @returns a function that puts the new list of issuers into use and returns the key sets of all of them
   * @throws GateError ERR_OUTBOUND, ERR_CONFIG_FILE when keys cannot be loaded
   */
  async prepare(issuers: readonly IssuerConfig[]): Promise<() => readonly KeySet[]> {
    const next = new Map<string, IssuerKeys>()
    for (const config of issuers) {
      const before = this.#sources.get(config.issuer)
      if (before !== undefined && JSON.stringify(before.config) === JSON.stringify(config)) {
        next.set(config.issuer, before)
        continue
      }
      const source = new IssuerKeys(config, this.#options.fetchDocument)
      source.fetchedAt = Date.now()
      source.triedAtMs = performance.now()
      const { keys, left, freshMs } = await source.published.read()
      source.keys = keys
      source.freshMs = freshMs
      this.#name(source, left)
      source.goodAt = Date.now()
      source.version = (before?.version ?? 0) + 1
      next.set(config.issuer, source)
    }
    return () => {
      for (const [issuer, source] of this.#sources) {
        if (next.get(issuer) === source) continue
        clearTimeout(source.timer)
        source.retired = true
        // An old fetch may have raised the version after the new entry was made: the new entry must still have the
        // higher version.
        const heir = next.get(issuer)
        if (heir !== undefined) heir.version = source.version + 1
      }
      for (const [issuer, source] of next) {
        if (this.#sources.get(issuer) === source) continue
        this.#plan(source)
        this.#keep(source)
      }
      this.#sources = next
      return [...next.values()].map(({ config, version, keys }) => ({
        issuer: config.issuer,
        version,
        keys,
      }))
    }
  }

  /**
   * A worker met a token that no key of the set verifies: fetch the set again, but not more often than the cooldown allows.
   * @param seen The version of the set that the worker has; a newer one is on its way to it.
   */
  want(issuer: string, seen: number): void {
    const source = this.#sources.get(issuer)
    if (source === undefined || this.#closed || seen < source.version) return
    // The cooldown also holds after failed attempts: unknown keys in tokens of strangers must not load an issuer that
    // fails.
    const now = performance.now()
    const allowedAtMs = source.triedAtMs + source.config.keys_cooldown
    if (allowedAtMs <= now) void this.#refresh(source)
    // Never move a fetch to a later time: an issuer whose first keys are missing is due sooner than the cooldown.
    else if (source.running === undefined && allowedAtMs < source.dueAtMs)
      this.#plan(source, allowedAtMs - now)
  }

  status(): readonly IssuerStatus[] {
    return [...this.#sources.values()].map((source) => ({
      issuer: source.config.issuer,
      keys: source.keys.length,
      version: source.version,
      last_fetch: timeOf(source.fetchedAt),
      last_success: timeOf(source.goodAt),
      code: source.error?.code ?? null,
      message: source.error?.message ?? null,
    }))
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const source of this.#sources.values()) clearTimeout(source.timer)
    const sources = [...this.#sources.values()]
    await Promise.all(sources.map((source) => source.running))
    await Promise.all(sources.map((source) => source.keeping))
  }

  /** Runs one fetch at a time for each issuer. */
  #refresh(source: IssuerKeys): Promise<void> {
    source.running ??= this.#fetch(source).finally(() => {
      source.running = undefined
      this.#plan(source)
    })
    return source.running
  }

  async #fetch(source: IssuerKeys): Promise<void> {
    const { log } = this.#options
    const { issuer } = source.config
    source.fetchedAt = Date.now()
    source.triedAtMs = performance.now()
    try {
      const { keys, left, freshMs } = await source.published.read()
      this.#name(source, left)
      source.freshMs = freshMs
      source.goodAt = Date.now()
      source.failures = 0
      const recovered = source.error !== undefined
      source.error = undefined
      source.said = undefined
      if (JSON.stringify(keys) === JSON.stringify(source.keys)) {
        if (recovered) log.info({ issuer, keys: keys.length }, 'issuer keys can be loaded again')
        this.#keep(source)
        return
      }
      this.#change(source, keys)
      this.#keep(source)
      log.info({ issuer, keys: keys.length }, 'issuer keys loaded')
    } catch (thrown) {
      source.failures++
      source.error = asGateError(thrown, 'ERR_OUTBOUND')
      if (source.keys.length > 0 && Date.now() > servesUntil(source)) this.#change(source, [])
      this.#warn(source, source.error)
    }
  }

  /** Logs which published keys are not used: an operator who looks for a missing key finds it here, once. */
  #name(source: IssuerKeys, left: readonly string[]): void {
    const text = left.join('; ')
    if (text === source.left) return
    source.left = text
    if (left.length === 0) return
    const { issuer } = source.config
    this.#options.log.info({ issuer, left }, 'some published keys of the issuer are not used')
  }

  /** Logs a problem once, however often the fetch is repeated. */
  #warn(source: IssuerKeys, { code, hint, message }: GateError): void {
    const { issuer } = source.config
    const serves = source.keys.length > 0
    const said = `${serves} ${message}`
    if (said === source.said) return
    source.said = said
    const what = serves
      ? `could not be refreshed; the keys of ${timeOf(source.goodAt)} serve until ${timeOf(servesUntil(source))}`
      : 'could not be loaded'
    this.#options.log.warn({ issuer, code, hint }, `issuer keys ${what}: ${message}`)
  }

  #change(source: IssuerKeys, keys: readonly Jwk[]): void {
    if (source.retired) return
    source.keys = keys
    source.version++
    this.#options.onChange({ issuer: source.config.issuer, version: source.version, keys })
  }

  #plan(source: IssuerKeys, inMs: number = pauseOf(source)): void {
    if (this.#closed || source.retired) return
    clearTimeout(source.timer)
    source.dueAtMs = performance.now() + inMs
    source.timer = setTimeout(() => void this.#refresh(source), inMs)
  }
}

function servesUntil({ goodAt, config }: IssuerKeys): number {
  return goodAt + config.keys_max_stale
}

/**
 * The issuer may ask for a sooner fetch, within limits. Also a try when the keys end: a failed one takes them away, and
 * `keys_refresh` may be longer than their rest.
 */
function pauseOf(source: IssuerKeys): number {
  const { keys, failures, freshMs = Number.POSITIVE_INFINITY, config } = source
  if (keys.length === 0) {
    const growing = firstRetryMs * 2 ** Math.min(failures, 10)
    return Math.max(leastRetryMs, Math.min(config.keys_cooldown, growing))
  }
  const rest = servesUntil(source) + 1 - Date.now()
  const asked = Math.max(freshMs, config.keys_cooldown, leastPauseMs)
  return Math.min(config.keys_refresh, asked, Math.max(firstRetryMs, rest))
}

function timeOf(ms: number): string | null {
  return Number.isFinite(ms) ? new Date(ms).toISOString() : null
}
