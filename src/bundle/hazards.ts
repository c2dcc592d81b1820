/**
 * What `opa build -O` may have done to a bundle. The optimiser takes data that it cannot see for undefined, and data
 * that it can see into the code; neither is visible in how the bundle answers today.
 */
export interface BuildFacts {
  /** The bundle holds the optimiser's own rules. */
  readonly optimized: boolean
  /** Of the manifest. */
  readonly roots: unknown
  readonly wasm: Buffer
  readonly data: Readonly<Record<string, unknown>>
}

/** Keys of the data that are looked for in the code, and how many of them make a finding. */
const sample = 100
const fewest = 20

/** @returns one sentence for each, empty for a bundle as `make bundle` builds it. */
export function findHazards({ optimized, roots, wasm, data }: BuildFacts): string[] {
  if (!optimized) return []
  const found: string[] = []
  if (!Array.isArray(roots) || roots.length === 0 || roots.includes('')) {
    found.push(
      'it was optimised (-O) without roots: whatever of `data` is not in the bundle was compiled as undefined, and a rule that checks it may be gone. Name the roots in .manifest, or build without -O',
    )
  }
  const keys = keysOf(data)
  const inCode = keys.filter((key) => wasm.includes(`\0${key}\0`)).length
  if (keys.length >= fewest && inCode > keys.length / 2) {
    found.push(
      'it was optimised (-O) with its data in sight: the data is unrolled into code, which has been measured to make an evaluation 13 times slower. Build without -O, or keep the data out of the optimised bundle',
    )
  }
  return found
}

/** Keys below the first level: the first is where rules find the data, and always in the code. */
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
