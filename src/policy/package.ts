/** A vetted policy, as the control thread sends it to every worker. */

import type { MemoryImage } from './data-image.ts'
import type { PolicyUsage } from './input-usage.ts'
import type { Places } from './rule-paths.ts'

/** A policy that is ready to be instantiated; its module and data are shared by all threads. */
export interface PolicyPackage {
  /** Number of the activation in this gate; workers report it back. */
  readonly generation: number
  readonly bundle: string
  readonly revision: string
  /** SHA-256 of the bundle's bytes, hex. */
  readonly digest: string
  readonly module: WebAssembly.Module
  /** Pages of 64 KiB that the module's memory needs at least. */
  readonly initialPages: number
  /**
   * Memory of the trial run's instance after it had read the data. Large data would block a worker for seconds if the
   * worker itself read them, at each activation and after each trap. JSON text is used only outside the workers.
   */
  readonly data: string | Uint8Array | MemoryImage
  /** Number of the last change of the data that `data` contains; 0 as it comes from the bundle. */
  readonly patched?: number
  /** Where its data may be changed. */
  readonly places: Places
  /** What each entrypoint reads. */
  readonly usage: PolicyUsage
}
