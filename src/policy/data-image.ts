/** The `data` document in the form in which all threads share it. */

/** The memory after the data is loaded, with the positions of the things in it. All threads share its bytes. */
export interface MemoryImage {
  readonly bytes: Uint8Array
  /** Size of the whole memory. It is larger than `bytes`: the allocator inside `bytes` counts on the full size. */
  readonly memoryBytes: number
  readonly context: number
  readonly inputAt: number
  /** Address of the `data` document. */
  readonly dataAt: number
}

export function isImage(data: string | Uint8Array | MemoryImage): data is MemoryImage {
  return typeof data === 'object' && 'memoryBytes' in data
}

/** A number of bytes for people. */
export function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MiB`
}
