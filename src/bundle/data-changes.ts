/**
 * Changes the `data` of the active policy without a bundle. A change is tried on the same data in a thread of its own,
 * numbered, and sent to every worker. What changes leave behind in memory is removed by writing the data anew in a
 * second thread, while changes go on; the workers then get the new image as they get a policy.
 */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Log } from '../domain/log.ts'
import { threadFile } from '../domain/thread-file.ts'
import { asGateError, GateError } from '../errors.ts'
import type { DataReport, DataRequest, DataStart } from '../messages.ts'
import { isImage } from '../policy/data-image.ts'
import type { PolicyPackage } from '../policy/package.ts'
import type { DataPatch, PatchFormat } from '../policy/patch.ts'

type DataResult = Extract<DataReport, { ok: true }>

/**
 * The data is written anew when changes have left behind more than this, and more than this share of the data; or after
 * this many changes, which a worker that starts later has to carry out one by one.
 */
const keptBytes = 4 << 20
const keptShare = 0.25
const keptChanges = 20_000

/** A change that the workers have been sent. */
export interface MadeChange {
  readonly generation: number
  /** Number of the change since the policy became active. */
  readonly number: number
}

export interface DataChangesOptions {
  readonly maxMemoryBytes: number
  readonly log: Log
  /** A change is to be made by every worker. */
  readonly onPatch: (generation: number, patch: DataPatch) => void
  /** The active policy has its data in another image, which contains the changes up to `patched`. */
  readonly onRenewed: (policy: PolicyPackage) => void
}

export interface DataChangeStatus {
  /** Changes since the bundle became active. */
  readonly changes: number
  /** Bytes of the data with what changes have left behind; null before the first change. */
  readonly bytes: number | null
  readonly renewals: number
}

export class DataChanges {
  readonly #options: DataChangesOptions
  #policy: PolicyPackage | undefined
  #keeper: Keeper | undefined
  /** Changes since the image. */
  #patches: DataPatch[] = []
  #number = 0
  #bytes: number | null = null
  #renewals = 0
  #renewing: Promise<void> | undefined
  /** One change after the other. */
  #work: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(options: DataChangesOptions) {
    this.#options = options
  }

  /** Another policy is active: changes are made to its data from now on, and those of the older one are forgotten. */
  follow(policy: PolicyPackage): void {
    void this.#keeper?.close()
    this.#keeper = undefined
    this.#policy = policy
    this.#patches = []
    this.#number = 0
    this.#bytes = null
    this.#renewals = 0
    this.#renewing = undefined
  }

  status(): DataChangeStatus {
    return { changes: this.#number, bytes: this.#bytes, renewals: this.#renewals }
  }

  /**
   * @param text A JSON Patch, or the `patch.json` of a delta bundle.
   * @throws GateError ERR_DATA_PATCH, ERR_BUNDLE_LIMITS, ERR_POLICY_MISSING; then nothing is changed
   */
  async change(text: string, format: PatchFormat): Promise<MadeChange> {
    try {
      return await this.#inTurn(() => this.#change(text, format))
    } catch (error) {
      const { code } = asGateError(error)
      if (code !== 'ERR_BUNDLE_LIMITS' || this.#patches.length === 0) throw error
      // What earlier changes have left behind may be what is too much.
      await this.#renew()
      return await this.#inTurn(() => this.#change(text, format))
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#keeper?.close()
    await this.#work
    await this.#renewing
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#work.then(work)
    this.#work = done.catch(() => {})
    return done
  }

  async #change(text: string, format: PatchFormat): Promise<MadeChange> {
    const policy = this.#policy
    if (policy === undefined || this.#closed) throw new GateError('ERR_POLICY_MISSING')
    const { maxMemoryBytes, onPatch } = this.#options
    const { generation } = policy
    if (this.#keeper?.ended !== false)
      this.#keeper = new Keeper({ policy, patches: this.#patches, maxMemoryBytes })
    const result = await this.#keeper.ask({ type: 'change', text, format })
    if (this.#policy?.generation !== generation)
      throw new GateError('ERR_DATA_PATCH', 'another bundle became active; the change is not made')
    const patch: DataPatch = { number: ++this.#number, operations: result.operations }
    this.#patches.push(patch)
    this.#bytes = result.bytes
    onPatch(generation, patch)
    if (this.#leavesTooMuch(result.bytes)) void this.#renew()
    return { generation, number: patch.number }
  }

  #leavesTooMuch(bytes: number): boolean {
    const data = this.#policy?.data
    if (data === undefined || !isImage(data)) return false
    const left = bytes - data.bytes.length
    return (
      left > Math.max(keptBytes, data.bytes.length * keptShare) ||
      this.#patches.length > keptChanges
    )
  }

  #renew(): Promise<void> {
    this.#renewing ??= this.#renewOnce().finally(() => {
      this.#renewing = undefined
    })
    return this.#renewing
  }

  async #renewOnce(): Promise<void> {
    const policy = this.#policy!
    const { maxMemoryBytes, log, onRenewed } = this.#options
    const number = this.#number
    const keeper = new Keeper({ policy, patches: [...this.#patches], maxMemoryBytes })
    try {
      const { image } = await keeper.ask({ type: 'renew' })
      // In turn with the changes: none is made between the last one that the new thread gets and its use.
      const old = await this.#inTurn(async () => {
        const patches = this.#patches.filter((patch) => patch.number > number)
        const { bytes } = await keeper.ask({ type: 'apply', patches })
        if (this.#policy !== policy || this.#closed) throw new GateError('ERR_POLICY_MISSING')
        this.#policy = { ...policy, data: image!, patched: number }
        this.#patches = patches
        this.#bytes = bytes
        this.#renewals++
        onRenewed(this.#policy)
        const before = this.#keeper
        this.#keeper = keeper
        return before
      })
      await old?.close()
    } catch (error) {
      await keeper.close()
      const { code, message } = asGateError(error)
      if (this.#policy === policy && !this.#closed)
        log.warn({ code }, `the data could not be written anew: ${message}`)
    }
  }
}

/** The thread that holds the data; see data-thread.ts. */
class Keeper {
  readonly #worker: Worker
  #asked: Promise<unknown> = Promise.resolve()
  readonly #gone: Promise<never>
  ended = false

  constructor(start: DataStart) {
    this.#worker = new Worker(threadFile('./data-thread', import.meta.url), {
      workerData: start,
      name: 'data',
    })
    this.#gone = Promise.race([once(this.#worker, 'exit'), once(this.#worker, 'error')]).then(
      () => {
        this.ended = true
        throw new GateError('ERR_DATA_PATCH', 'the thread that holds the data has ended')
      },
    )
    this.#gone.catch(() => {})
  }

  ask(request: DataRequest): Promise<DataResult> {
    const answer = this.#asked.then(async () => {
      const told = once(this.#worker, 'message') as Promise<[DataReport]>
      // When the thread ends instead, `#gone` is the answer.
      told.catch(() => {})
      this.#worker.postMessage(request)
      const [report] = await Promise.race([told, this.#gone])
      if (!report.ok) throw GateError.from(report.error)
      return report
    })
    this.#asked = answer.catch(() => {})
    return answer
  }

  async close(): Promise<void> {
    await this.#worker.terminate()
  }
}
