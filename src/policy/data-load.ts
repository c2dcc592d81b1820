/**
 * Loads the `data` document into a module's memory, and refuses what is too large by the name of the option that limits
 * it.
 */
import { GateError } from '../errors.ts'
import { mib } from './data-image.ts'
import { DataMemory, type ModuleHeap, valueType } from './data-memory.ts'
import { DataWriter } from './data-writer.ts'

/** What the check of the layout needs of a module. */
export interface ModuleParser {
  /** The module's own parser. @returns the value's address, 0 for no JSON */
  readonly parse: (text: string) => number
  /** The module's own text of a value. */
  readonly dump: (value: number) => string
}

const sample = Buffer.from(
  '{"a":null,"b":[true,false,"x",-1.5e3,[]],"é\\n":{},"d":12345678901234567890,"long":"' +
    `${'y'.repeat(100)}","many":{"1":1,"2":2,"3":3,"4":4,"5":5,"6":6,"7":7}}`,
)

/** @throws GateError ERR_BUNDLE_POLICY when the module stores values in another way than data-memory.ts says */
export function checkLayout(heap: ModuleHeap, module: ModuleParser): void {
  const end = heap.end()
  const parsed = module.parse(sample.toString())
  const memory = new DataMemory(heap)
  heap.setEnd(heap.end())
  const written = new DataWriter(memory, sample).write()
  memory.finish()
  // Printing looks up every member by its hash, so equal texts mean that the module finds what is written here.
  const same = module.dump(parsed) === module.dump(written)
  memory.abandon(end)
  if (!same)
    throw new GateError(
      'ERR_BUNDLE_POLICY',
      'policy.wasm cannot be used: it stores values in another way than OPA 1.x',
      { hint: 'build the bundle with `opa build -t wasm` of OPA 1.x' },
    )
}

export interface DataLoad {
  readonly heap: ModuleHeap
  readonly text: Uint8Array
  readonly maxMemoryBytes: number
  /** True when the last failure was that the memory is used up. */
  readonly outOfMemory: () => boolean
}

/** @returns the document's address. @throws GateError ERR_BUNDLE_READ, ERR_BUNDLE_LIMITS */
export function loadData({ heap, text, maxMemoryBytes, outOfMemory }: DataLoad): number {
  const end = heap.end()
  heap.setEnd(end)
  const memory = new DataMemory(heap)
  const writer = new DataWriter(memory, text)
  try {
    const at = writer.write()
    if (memory.typeOf(at) !== valueType.object)
      throw new GateError('ERR_BUNDLE_READ', 'the data is not a JSON object')
    memory.finish()
    return at
  } catch (error) {
    if (error instanceof GateError && !outOfMemory()) throw error
    const written = heap.end() - end
    const needed = end + (written * text.length) / Math.max(1, writer.at)
    throw tooLarge(
      `its data (${mib(text.length)} of JSON) needs about ${mib(needed)} of memory`,
      maxMemoryBytes,
    )
  }
}

export function tooLarge(what: string, maxMemoryBytes: number): GateError {
  return new GateError(
    'ERR_BUNDLE_LIMITS',
    `${what}, and policy.max_memory allows ${mib(maxMemoryBytes)}`,
    {
      hint: 'raise policy.max_memory above what it needs, plus what an evaluation needs: each worker has an instance of this size',
    },
  )
}
