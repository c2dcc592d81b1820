/**
 * The messages between the threads, and nothing else: the types of what a message carries are in the folder that makes
 * it. Other folders import types only; the constants are for worker and supervisor.
 *
 *   control -> worker   WorkerCommand          worker -> control   WorkerReport
 *   worker  -> log      LogBatch               control -> vetting  VetRequest -> VetReport
 *                                              control -> data     DataRequest -> DataReport
 *                                              control -> unpack   UnpackRequest -> UnpackReport
 */
import type { MessagePort } from 'node:worker_threads'
import type { ArchiveLimits, BundleContent } from './bundle/archive.ts'
import type { BundleCost } from './bundle/cost.ts'
import type { GateConfig } from './config/options.ts'
import type { LiveEntry, LiveFilter } from './domain/live-entry.ts'
import type { GateErrorData } from './errors.ts'
import type { KeySet } from './identity/key-set.ts'
import type { SharedSignatures } from './identity/known-signatures.ts'
import type { SharedProofs } from './identity/used-proofs.ts'
import type { BodyUses } from './policy/body-use.ts'
import type { MemoryImage } from './policy/data-image.ts'
import type { PolicyPackage } from './policy/package.ts'
import type { DataOperation, DataPatch, PatchFormat } from './policy/patch.ts'
import type { LedgerShared } from './revocation/ledger.ts'

/** Words of `WorkerStart.pulse`, written by the worker, read by the supervisor. */
export const pulse = {
  /**
   * Number of signs of life: one for each `beatMs` in which the event loop turned, and one for each evaluation that has
   * ended.
   */
  beat: 0,
  /**
   * Generation of the policy that is being evaluated, 0 between evaluations. If the worker dies meanwhile, the caller is refused under this policy.
   */
  evaluating: 1,
  /** Number of exchanges open at the last beat or evaluation; they are lost if the thread dies. */
  live: 2,
  /** Two words: the caller of the current evaluation, see domain/caller.ts. Written before `evaluating`. */
  caller: 3,
  /** The operating system's id of the worker's thread, see domain/thread-cpu; 0 when it is not known. */
  thread: 5,
} as const

export const beatMs = 100

/** What a worker is started with (`workerData`). */
export interface WorkerStart {
  /** Number of the worker, from 0; its replacement gets the same. */
  readonly index: number
  readonly config: GateConfig
  readonly configGeneration: number
  /**
   * Ports to bind: equal to the configuration except for port 0, which the first worker resolves. Undefined: wait for
   * the command `listen`, which carries them.
   */
  readonly ports: readonly number[] | undefined
  readonly reusePort: boolean
  /** Shared pulse words of this worker, see `pulse` above. */
  readonly pulse: SharedArrayBuffer
  /** Shared metric cells of this worker, see metrics.ts. */
  readonly metrics: SharedArrayBuffer
  /** Secrets for token hashes, newest first. */
  readonly peppers: readonly Uint8Array[]
  /** Signatures that were checked before, see identity/known-signatures.ts. */
  readonly signatures: SharedSignatures
  /** Proofs that were used, see identity/used-proofs.ts. */
  readonly proofs: SharedProofs
  /** The claims that rows name, see revocation/pointers.ts. */
  readonly pointers: SharedArrayBuffer
  /** Port to the log thread. */
  readonly log: MessagePort
  /** `labels` of every decision record, as JSON text. */
  readonly labelsJson: string
}

/** A question for one worker; the answer carries the same number. */
export type WorkerQuestion =
  | {
      readonly type: 'list-live'
      readonly filter: LiveFilter
      /** Only exchanges that were registered after this one, see `LiveExchange.seq`. */
      readonly after: number
      readonly limit: number
    }
  | { readonly type: 'cut-live'; readonly id: string }

/** `last`: `seq` of the last entry, when more entries follow it. */
export interface WorkerAnswer {
  readonly entries: readonly LiveEntry[]
  readonly last: number | undefined
}

export type WorkerCommand =
  /** Bind these ports now; sent only to a worker that was started without ports. */
  | { readonly type: 'listen'; readonly ports: readonly number[] }
  | { readonly type: 'question'; readonly number: number; readonly question: WorkerQuestion }
  | { readonly type: 'ledger'; readonly ledger: LedgerShared }
  | {
      /** Rows are in the ledger and published: cut the exchanges that they concern. */
      readonly type: 'rows'
      /** Keys of the rows, see revocation/affected; undefined: check all open exchanges. */
      readonly keys: Uint8Array | undefined
      /** Monotonic µs at which they were published. */
      readonly sinceUs: number
      /** The worker reports this number once it has looked at all of them; undefined: no report is wanted. */
      readonly look: number | undefined
    }
  | { readonly type: 'policy'; readonly policy: PolicyPackage }
  /** A change of the data of this policy; a worker gets all of them, in order. */
  | { readonly type: 'patch'; readonly generation: number; readonly patch: DataPatch }
  /** All callers that this policy refuses for now without an evaluation: name -> until when, in monotonic µs. */
  | {
      readonly type: 'callers-suspended'
      readonly generation: number
      readonly callers: ReadonlyMap<string, number>
    }
  | { readonly type: 'keys'; readonly keySet: KeySet }
  | {
      readonly type: 'config'
      /** Number of the reload; workers report it back. */
      readonly generation: number
      readonly config: GateConfig
      /** The keys of every issuer in this configuration. */
      readonly keySets: readonly KeySet[]
    }
  | { readonly type: 'drain'; readonly timeoutMs: number }

export type WorkerReport =
  | { readonly type: 'answer'; readonly number: number; readonly answer: WorkerAnswer }
  /** For each row: the number of open exchanges that it has just ended on this worker. */
  | { readonly type: 'cuts'; readonly byRow: ReadonlyMap<number, number> }
  /** All open exchanges of this look were looked at, and the cuts among them are reported. */
  | { readonly type: 'looked'; readonly look: number }
  | { readonly type: 'listening'; readonly ports: readonly number[] }
  | {
      readonly type: 'policy-active'
      readonly generation: number
      readonly revision: string
      /** Number of the last change of its data that is in force; 0 for the data of the bundle. */
      readonly patched: number
    }
  | { readonly type: 'policy-patched'; readonly generation: number; readonly patched: number }
  /** The worker reads this table of the ledger, and no older one from now on. */
  | { readonly type: 'ledger-read'; readonly generation: number }
  | { readonly type: 'policy-failed'; readonly generation: number; readonly error: GateErrorData }
  | { readonly type: 'config-active'; readonly generation: number }
  | { readonly type: 'keys-wanted'; readonly issuer: string; readonly seen: number }
  | { readonly type: 'failed'; readonly error: GateErrorData }
  | { readonly type: 'drained' }

/** Records of the decision log: JSON texts in UTF-8, each followed by a newline. */
export type LogBatch =
  /**
   * The worker has a new piece of shared memory for records; it writes there only while its word in `handedOver` is 0.
   */
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
  /** One line that was too long for the shared memory; it takes the place of the chunk with this index. */
  | { readonly type: 'long'; readonly index: number; readonly bytes: Uint8Array }

/** What the thread that holds the data is started with. */
export interface DataStart {
  readonly policy: PolicyPackage
  /** Changes since the package's image. */
  readonly patches: readonly DataPatch[]
  readonly maxMemoryBytes: number
}

/** One at a time; each gets one report. */
export type DataRequest =
  /** Read this change and carry it out, if it may be. */
  | { readonly type: 'change'; readonly text: string; readonly format: PatchFormat }
  /** Carry out what the workers have carried out. */
  | { readonly type: 'apply'; readonly patches: readonly DataPatch[] }
  /** Write the data anew, without what changes have left behind. */
  | { readonly type: 'renew' }

export type DataReport =
  | {
      readonly ok: true
      readonly operations: readonly DataOperation[]
      readonly image: MemoryImage | undefined
      /** Bytes of the data, with what changes have left behind. */
      readonly bytes: number
    }
  | { readonly ok: false; readonly error: GateErrorData }

export interface UnpackRequest {
  readonly bytes: Uint8Array
  readonly limits: ArchiveLimits
}

/** The bytes of a bundle's content, in shared memory. */
interface SharedContent extends Omit<BundleContent, 'wasm' | 'data'> {
  readonly wasm: Uint8Array<SharedArrayBuffer>
  readonly data: Uint8Array<SharedArrayBuffer>
}

export type UnpackReport =
  | { readonly ok: true; readonly content: SharedContent }
  | { readonly ok: false; readonly error: GateErrorData }

export interface VetRequest {
  /** `policy.wasm` of a bundle, or what an earlier vetting made of it. */
  readonly policy: Uint8Array | VettedModule
  readonly data: PolicyPackage['data']
  readonly maxMemoryBytes: number
  /** How long an evaluation may take. */
  readonly evaluationMs: number
  /** Entrypoints that the routes use; each must exist. */
  readonly decisions: readonly string[]
}

/** What the vetting makes of a bundle's `policy.wasm`. */
export type VettedModule = Pick<PolicyPackage, 'module' | 'initialPages' | 'usage'>

/** What the vetting thread does now; each step has a deadline of its own. The report comes after the trial. */
export type VetStep = 'data' | 'trial'

export type VetReport =
  | {
      readonly ok: true
      readonly policy: VettedModule
      readonly cost: BundleCost
      readonly bodies: BodyUses
      readonly data: MemoryImage
    }
  | { readonly ok: false; readonly error: GateErrorData }
