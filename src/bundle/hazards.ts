/**
 * Finds what a bundle is to be warned of: builtins that answer otherwise than in OPA (policy/differences.ts), and harm that `opa build -O` may have done. The optimiser compiles data that is not in the bundle as
 * undefined, and copies data that is in the bundle into the code. Neither shows in the answers that the policy gives
 * today.
 */
import { usedBuiltins, warningsOf } from '../policy/differences.ts'

export interface BuildFacts {
  /** True if the bundle contains rules that the optimiser generated. */
  readonly optimized: boolean
  /** `roots` of the manifest. */
  readonly roots: unknown
  readonly wasm: Buffer
  /** Called only for an optimised bundle: large data is parsed only where the answer needs it. */
  readonly data: () => Readonly<Record<string, unknown>>
}

/** How many keys of the data are searched for in the code, and from how many keys on a warning is given. */
const sample = 100
const fewest = 20

/** @returns One sentence per warning; none for a bundle built by `make bundle`. */
export function findHazards({ optimized, roots, wasm, data }: BuildFacts): string[] {
  const found = warningsOf(usedBuiltins(wasm))
  if (!optimized) return found
  if (!Array.isArray(roots) || roots.length === 0 || roots.includes('')) {
    found.push(
      'it was optimised (-O) without roots: every part of `data` that is not in the bundle was compiled as undefined, and rules that check such data may have been removed. Name the roots in .manifest, or build without -O',
    )
  }
  const keys = keysOf(data())
  const inCode = keys.filter((key) => wasm.includes(`\0${key}\0`)).length
  if (keys.length >= fewest && inCode > keys.length / 2) {
    found.push(
      'it was optimised (-O) together with its data: the optimiser copied the data into the code, which made an evaluation 13 times slower in a measurement. Build without -O, or keep the data out of the optimised bundle',
    )
  }
  return found
}

/**
 * Returns keys of the data below the first level. First-level keys are left out: rules name them, so they are always
 * in the code.
 */
function keysOf(data: Readonly<Record<string, unknown>>): string[] {
  const keys: string[] = []
  let level: unknown[] = Object.values(data)
  while (level.length > 0 && keys.length < sample) {
    const objects = level.filter((value) => typeof value === 'object' && value !== null)
    for (const object of objects) if (!Array.isArray(object)) keys.push(...Object.keys(object))
    level = objects.flatMap((object) => Object.values(object))
  }
  return keys.slice(0, sample)
}
