/** A vetted policy, as the control thread hands it to every worker. */
import type { MemoryImage } from './host.ts'
import type { InputUsage } from './input-usage.ts'

/** A policy ready to be instantiated; the Module is shared, and so is its data. */
export interface PolicyPackage {
  /** Counts activations in this gate; workers report it back. */
  readonly generation: number
  readonly bundle: string
  readonly revision: string
  /** SHA-256 of the bundle's bytes, hex. */
  readonly digest: string
  readonly module: WebAssembly.Module
  /** Pages of 64 KiB that the module's memory needs at least. */
  readonly initialPages: number
  /**
   * The memory of the trial run's instance once it had read the data. A worker that read it would stand still for seconds
   * where it is large, at each swap and after each trap; as JSON text it is only where no worker is.
   */
  readonly data: string | MemoryImage
  /** What of its input it reads. */
  readonly usage: InputUsage
}
