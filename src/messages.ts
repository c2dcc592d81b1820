/**
 * The messages between the threads, and nothing else: what a message carries has its type in the folder that makes it.
 * Rooms import types only; the constants are for worker and supervisor.
 *
 *   control -> worker   WorkerCommand          worker -> control   WorkerReport
 *   worker  -> log      LogBatch               control -> vetting  VetRequest -> VetReport
 */
import type { MessagePort } from 'node:worker_threads'
import type { BundleCost } from './bundle/cost.ts'
import type { GateConfig } from './config/options.ts'
import type { LiveEntry, LiveFilter } from './domain/live-entry.ts'
import type { GateErrorData } from './errors.ts'
import type { KeySet } from './identity/key-set.ts'
import type { MemoryImage } from './policy/host.ts'
import type { InputUsage } from './policy/input-usage.ts'
import type { PolicyPackage } from './policy/package.ts'
import type { LedgerShared } from './revocation/ledger.ts'

/** Words of `WorkerStart.pulse`, written by the worker, read by the supervisor. */
export const pulse = {
  /** Counts signs of life: a turn of the worker's event loop, one each `beatMs`, and evaluations that have ended. */
  beat: 0,
  /** Generation of the policy being evaluated, 0 between evaluations: whom to blame for a runaway. */
  evaluating: 1,
  /** Exchanges open at the last beat or evaluation: what is lost if the thread is. */
  live: 2,
  /** Two words: on whose behalf the policy is evaluated, see domain/caller.ts. Written before `evaluating`. */
  caller: 3,
  /** Its thread's number on this machine, see domain/thread-cpu; 0 where there is none. */
  thread: 5,
} as const

export const beatMs = 100

/** What a worker is started with (`workerData`). */
export interface WorkerStart {
  /** 0-based, stable across replacement. */
  readonly index: number
  readonly config: GateConfig
  readonly configGeneration: number
  /**
   * Ports to bind: equal to the configuration but for port 0, which the first worker resolves. Undefined: the command
   * `listen` will bring them.
   */
  readonly ports: readonly number[] | undefined
  readonly reusePort: boolean
  /** Shared pulse words of this worker, see `pulse` in worker.ts. */
  readonly pulse: SharedArrayBuffer
  /** Shared metric cells of this worker, see metrics.ts. */
  readonly metrics: SharedArrayBuffer
  /** Secrets for token hashes, newest first. */
  readonly peppers: readonly Uint8Array[]
  /** The claims that rows name, see revocation/pointers.ts. */
  readonly pointers: SharedArrayBuffer
  /** To the log thread. */
  readonly log: MessagePort
  /** `labels` of every decision event, as JSON text. */
  readonly labelsJson: string
}

/** Asked of one worker, answered under the same number. */
export type WorkerQuestion =
  | {
      readonly type: 'list-live'
      readonly filter: LiveFilter
      /** Only what was registered after this, see `Exchange.seq`. */
      readonly after: number
      readonly limit: number
    }
  | { readonly type: 'cut-live'; readonly id: string }

/** `last`: of the last entry, where there is more behind it. */
export interface WorkerAnswer {
  readonly entries: readonly LiveEntry[]
  readonly last: number | undefined
}

export type WorkerCommand =
  /** Bind now; only to a worker that was started without ports. */
  | { readonly type: 'listen'; readonly ports: readonly number[] }
  | { readonly type: 'question'; readonly number: number; readonly question: WorkerQuestion }
  | { readonly type: 'ledger'; readonly ledger: LedgerShared }
  | {
      /** Rows are in the ledger and published: cut what they concern. */
      readonly type: 'rows'
      /** See revocation/affected; undefined: look at everything that is open. */
      readonly keys: Uint8Array | undefined
      /** Monotonic µs at which they were published. */
      readonly sinceUs: number
    }
  | { readonly type: 'policy'; readonly policy: PolicyPackage }
  | { readonly type: 'policy-suspended'; readonly generation: number }
  /** All callers for whom this policy is not evaluated for now: name -> until when, in monotonic µs. */
  | {
      readonly type: 'callers-suspended'
      readonly generation: number
      readonly callers: ReadonlyMap<string, number>
    }
  | { readonly type: 'keys'; readonly keySet: KeySet }
  | {
      readonly type: 'config'
      /** Counts reloads of this gate; workers report it back. */
      readonly generation: number
      readonly config: GateConfig
      /** The keys of every issuer of it. */
      readonly keySets: readonly KeySet[]
    }
  | { readonly type: 'drain'; readonly timeoutMs: number }

export type WorkerReport =
  | { readonly type: 'answer'; readonly number: number; readonly answer: WorkerAnswer }
  /** Row ids, each with how many open exchanges it has just ended here. */
  | { readonly type: 'cuts'; readonly byRow: ReadonlyMap<number, number> }
  | { readonly type: 'listening'; readonly ports: readonly number[] }
  | { readonly type: 'policy-active'; readonly generation: number; readonly revision: string }
  /** From now on this worker reads no older table. */
  | { readonly type: 'ledger-read'; readonly generation: number }
  | { readonly type: 'policy-failed'; readonly generation: number; readonly error: GateErrorData }
  | { readonly type: 'config-active'; readonly generation: number }
  | { readonly type: 'keys-wanted'; readonly issuer: string; readonly kid: string | undefined }
  | { readonly type: 'failed'; readonly error: GateErrorData }
  | { readonly type: 'drained' }

/** Decision events as they are written: JSON texts in UTF-8, a newline after each. */
export type LogBatch =
  /** The worker has more memory; it writes there only while its word in `handedOver` is 0. */
  | {
      readonly type: 'memory'
      readonly index: number
      readonly memory: SharedArrayBuffer
      readonly handedOver: Int32Array
    }
  | {
      readonly type: 'chunk'
      readonly index: number
      readonly length: number
      readonly lines: number
    }
  /** One line, and the chunk in whose place it comes. */
  | { readonly type: 'long'; readonly index: number; readonly bytes: Uint8Array }

export interface VetRequest {
  readonly module: WebAssembly.Module
  readonly initialPages: number
  readonly data: PolicyPackage['data']
  readonly usage: InputUsage
  readonly maxMemoryBytes: number
  /** Entrypoints that the routes use; each must exist. */
  readonly decisions: readonly string[]
}

export type VetReport =
  | { readonly ok: true; readonly cost: BundleCost; readonly data: MemoryImage }
  | { readonly ok: false; readonly error: GateErrorData }
