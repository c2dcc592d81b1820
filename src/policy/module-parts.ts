/**
 * A module taken apart as far as it is rewritten (module.ts, steps.ts), and written again with more in its sections. The
 * bytes may be hostile.
 */
import {
  functionNames,
  kind,
  leb,
  malformed,
  Reader,
  type Section,
  section,
  sectionsOf,
} from './binary.ts'

interface Imports {
  readonly initialPages: number | undefined
  /** Names of the imported functions, which are numbered before those of the module. */
  readonly functions: readonly string[]
}

function readImports(reader: Reader | undefined): Imports {
  let initialPages: number | undefined
  const functions: string[] = []
  for (let left = reader?.leb() ?? 0; reader !== undefined && left > 0; left--) {
    reader.name()
    const name = reader.name()
    switch (reader.byte()) {
      case kind.func:
        reader.leb()
        functions.push(name)
        break
      case kind.memory: {
        const limits = reader.byte()
        initialPages = reader.leb()
        if (limits === 1) reader.leb()
        else if (limits !== 0) throw malformed('its memory is shared or 64-bit')
        break
      }
      default:
        // An imported global would shift the numbers, so that global 0 would not be the stack pointer.
        throw malformed('it imports something other than functions and one memory')
    }
  }
  return { initialPages, functions }
}

export interface Export {
  readonly name: string
  readonly kind: number
  readonly index: number
}

/** What is added at the end of sections, each entry as its bytes. `bodies` are those of all functions. */
interface Additions {
  readonly exports: readonly Export[]
  readonly types: readonly (readonly number[])[]
  readonly functions: readonly (readonly number[])[]
  readonly globals: readonly (readonly number[])[]
  readonly bodies: readonly Uint8Array[]
}

export class ModuleParts {
  readonly #bytes: Uint8Array
  readonly #sections: readonly Section[]
  /** Number of parameters, by type. */
  readonly params: readonly number[]
  /** Pages of 64 KiB that its memory must have; undefined where it imports none. */
  readonly initialPages: number | undefined
  /** Names of the imported functions. */
  readonly imported: readonly string[]
  /** Type of each function that is not imported. */
  readonly types: readonly number[]
  readonly globals: number
  readonly bodies: readonly Uint8Array[]
  /** Names of functions by index; imported functions come first. */
  readonly names: ReadonlyMap<number, string>

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#sections = sectionsOf(bytes)
    this.names = functionNames(bytes, this.#sections)
    this.params = this.#entries(section.type, readParams)
    const { initialPages, functions } = readImports(this.open(section.import))
    this.initialPages = initialPages
    this.imported = functions
    this.types = this.#entries(section.function, (entry) => entry.leb())
    this.globals = this.open(section.global)?.leb() ?? 0
    this.bodies = this.#entries(section.code, (entry) => entry.slice(entry.leb()).rest())
    if (this.bodies.length !== this.types.length)
      throw malformed('it has more or fewer functions than it says')
  }

  /** Number of all functions. */
  get functions(): number {
    return this.imported.length + this.types.length
  }

  written({ types, functions, globals, exports, bodies }: Additions): Uint8Array {
    const more = new Map([
      [section.type as number, types],
      [section.function, functions],
      [section.global, globals],
      [
        section.export,
        exports.map(({ name, kind, index }) => [
          name.length,
          ...Buffer.from(name),
          kind,
          ...leb(index),
        ]),
      ],
    ])
    const parts: Uint8Array[] = [this.#bytes.subarray(0, 8)]
    for (const { id, start, at, end } of this.#sections) {
      const added = more.get(id)
      if (id === section.code) {
        const code = bodies.flatMap((body) => [Buffer.from(leb(body.length)), body])
        parts.push(sectionOf(id, bodies.length, code))
      } else if (added === undefined) parts.push(this.#bytes.subarray(start, end))
      else {
        const entries = new Reader(this.#bytes, at, end)
        const count = entries.leb() + added.length
        const all = [entries.rest(), ...added.map((entry) => Buffer.from(entry))]
        parts.push(sectionOf(id, count, all))
      }
    }
    return Buffer.concat(parts)
  }

  /** A reader of the content of this section, where there is one. */
  open(id: number): Reader | undefined {
    const found = this.#sections.find((each) => each.id === id)
    return found === undefined ? undefined : new Reader(this.#bytes, found.at, found.end)
  }

  #entries<E>(id: number, read: (entry: Reader) => E): E[] {
    const entries: E[] = []
    const reader = this.open(id)
    for (let left = reader?.leb() ?? 0; reader !== undefined && left > 0; left--)
      entries.push(read(reader))
    return entries
  }
}

function sectionOf(id: number, count: number, entries: readonly Uint8Array[]): Uint8Array {
  const counted = Buffer.from(leb(count))
  const size = entries.reduce((sum, entry) => sum + entry.length, counted.length)
  // In one piece: a call takes too few arguments for the functions of a large module.
  return Buffer.concat([Buffer.of(id, ...leb(size)), counted, ...entries])
}

/** @returns the number of parameters of a type */
function readParams(entry: Reader): number {
  if (entry.byte() !== 0x60) throw malformed('it has a type that is not a function')
  const params = entry.leb()
  entry.skip(params)
  entry.skip(entry.leb())
  return params
}
