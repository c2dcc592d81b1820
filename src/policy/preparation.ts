/**
 * Makes an instance while its worker goes on answering: the memory image is copied, and the changes of the data since
 * are made, in slices of a few ms with turns of the event loop between them.
 */
import { setImmediate as turn } from 'node:timers/promises'
import type { PolicyInstance } from './host.ts'
import type { DataPatch } from './patch.ts'

const sliceMs = 4
const pieceBytes = 128 << 10

export interface Preparation {
  /** Makes the instance without the bytes of its image. */
  readonly make: () => PolicyInstance
  /** The changes since the image, oldest first; more may come while the instance is being prepared. */
  readonly patches: readonly DataPatch[]
  /** False once another instance is wanted. */
  readonly isWanted: () => boolean
  /** Called in the turn in which the instance has everything. */
  readonly use: (instance: PolicyInstance) => void
}

/** @returns false when the instance was no longer wanted. @throws GateError ERR_BUNDLE_* */
export async function prepare(preparation: Preparation): Promise<boolean> {
  const { make, patches, isWanted, use } = preparation
  await turn()
  const instance = make()
  let patched = 0
  for (;;) {
    await turn()
    if (!isWanted()) return false
    const endMs = performance.now() + sliceMs
    do {
      if (!instance.copyPiece(pieceBytes)) continue
      const next = patches[patched++]
      if (next === undefined) {
        use(instance)
        return true
      }
      instance.patch(next.operations)
    } while (performance.now() < endMs)
  }
}
