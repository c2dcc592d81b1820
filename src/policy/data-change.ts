/**
 * Changes the `data` document in a module's memory: all operations or none. The module's own functions for this
 * (`opa_value_add_path`) take no lists, corrupt memory below anything that is no object, and stop for as long as they
 * move a large table; so the gate writes the tables itself. What an operation takes out of the document stays in memory
 * until the document is written anew (compaction.ts): nothing that an evaluation could still hold is overwritten.
 */
import { GateError } from '../errors.ts'
import { bucketsFor, type DataMemory, hashOf, size, valueType } from './data-memory.ts'
import { DataWriter, writeIndex } from './data-writer.ts'
import { type DataOperation, pointerOf } from './patch.ts'

/** From this many buckets on, a table may have more members than buckets: moving a large one takes long. */
const largeTable = 4096
const largeLoad = 4

/**
 * @param root Address of the document. @returns the address of the changed document
 * @throws GateError ERR_DATA_PATCH, or what the module throws without memory; then the document is as before
 */
export function changeData(
  memory: DataMemory,
  root: number,
  operations: readonly DataOperation[],
): number {
  const change = new Change(memory, root)
  try {
    for (const [i, operation] of operations.entries()) change.apply(operation, i)
  } catch (error) {
    change.undo()
    throw error
  }
  return change.root
}

class Change {
  readonly #memory: DataMemory
  /** What was done, in order; each entry takes one step back. */
  readonly #done: (() => void)[] = []
  root: number

  constructor(memory: DataMemory, root: number) {
    this.#memory = memory
    this.root = root
  }

  undo(): void {
    this.#memory.refresh()
    for (const step of this.#done.reverse()) step()
  }

  apply(operation: DataOperation, number: number): void {
    const refuse = (why: string): GateError =>
      new GateError(
        'ERR_DATA_PATCH',
        `operation ${number + 1} (${operation.op} ${pointerOf(operation.path)}): ${why}`,
      )
    const { op, path, value } = operation
    if (path.length === 0) {
      this.#replaceRoot(operation, refuse)
      return
    }
    let parent = this.root
    for (const [depth, step] of path.slice(0, -1).entries()) {
      const child = this.#child(parent, step)
      if (child === 0) {
        const missing = pointerOf(path.slice(0, depth + 1))
        if (op !== 'upsert' || this.#memory.typeOf(parent) !== valueType.object)
          throw refuse(`there is no ${missing}`)
        // A delta bundle makes the objects that are missing on the way.
        const rest = path
          .slice(depth + 1)
          .reduceRight((text, name) => `{${JSON.stringify(name)}:${text}}`, value!)
        this.#setMember(parent, step, rest)
        return
      }
      parent = child
    }
    const last = path.at(-1)!
    const type = this.#memory.typeOf(parent)
    if (type === valueType.object) this.#changeObject(parent, last, operation, refuse)
    else if (type === valueType.array) this.#changeList(parent, last, operation, refuse)
    else throw refuse(`there is no ${pointerOf(path)}`)
  }

  #replaceRoot({ op, value }: DataOperation, refuse: (why: string) => GateError): void {
    if (op === 'remove') throw refuse('the whole document cannot be removed')
    const at = this.#write(value!)
    if (this.#memory.typeOf(at) !== valueType.object)
      throw refuse('the whole document must be an object')
    const before = this.root
    this.#done.push(() => {
      this.root = before
    })
    this.root = at
  }

  #changeObject(
    object: number,
    name: string,
    { op, path, value }: DataOperation,
    refuse: (why: string) => GateError,
  ): void {
    const exists = this.#find(object, name) !== 0
    if ((op === 'replace' || op === 'remove') && !exists)
      throw refuse(`there is no ${pointerOf(path)}`)
    if (op === 'remove') this.#removeMember(object, name)
    else this.#setMember(object, name, value!)
  }

  #changeList(
    list: number,
    step: string,
    { op, path, value }: DataOperation,
    refuse: (why: string) => GateError,
  ): void {
    const length = this.#memory.words[(list + 8) >>> 2]!
    const grows = op === 'add' || op === 'upsert'
    const index = step === '-' && grows ? length : indexOf(step)
    if (index === -1 || index > length || (index === length && !grows))
      throw refuse(`there is no ${pointerOf(path)}; the list has ${length} elements`)
    if (op === 'remove') this.#removeElement(list, index)
    else if (grows) this.#insertElement(list, index, this.#write(value!))
    else {
      const at = this.#write(value!)
      this.#put(this.#element(list, index), at)
    }
  }

  /** Address of the child with this name or index, 0 when there is none. */
  #child(value: number, step: string): number {
    const { words } = this.#memory
    const type = this.#memory.typeOf(value)
    if (type === valueType.object) {
      const member = this.#find(value, step)
      return member === 0 ? 0 : words[(member + 4) >>> 2]!
    }
    if (type !== valueType.array) return 0
    const index = indexOf(step)
    if (index === -1 || index >= words[(value + 8) >>> 2]!) return 0
    return words[this.#element(value, index) >>> 2]!
  }

  #bucket(object: number, hash: number): number {
    const { words } = this.#memory
    return words[(object + 4) >>> 2]! + 4 * (hash % words[(object + 8) >>> 2]!)
  }

  /** Where the address of the member is stored, or of the last one of its bucket. */
  #placeOf(object: number, name: string): number {
    const { words } = this.#memory
    const text = Buffer.from(name)
    let place = this.#bucket(object, hashOf(text, 0, text.length))
    for (let member = words[place >>> 2]!; member !== 0; member = words[place >>> 2]!) {
      if (this.#memory.holds(words[member >>> 2]!, text, 0, text.length)) break
      place = member + 8
    }
    return place
  }

  #find(object: number, name: string): number {
    return this.#memory.words[this.#placeOf(object, name) >>> 2]!
  }

  #setMember(object: number, name: string, value: string): void {
    const at = this.#write(value)
    const found = this.#find(object, name)
    if (found === 0) this.#addMember(object, name, at)
    else this.#put(found + 4, at)
  }

  #addMember(object: number, name: string, at: number): void {
    this.#growTable(object)
    const memory = this.#memory
    const key = this.#write(JSON.stringify(name))
    const member = memory.allocate(size.member)
    const text = Buffer.from(name)
    const place = memory.placeIn(this.#bucket(object, hashOf(text, 0, text.length)), key)
    const { words } = memory
    words[member >>> 2] = key
    words[(member + 4) >>> 2] = at
    words[(member + 8) >>> 2] = words[place >>> 2]!
    this.#put(place, member)
    this.#put(object + 12, words[(object + 12) >>> 2]! + 1)
  }

  #removeMember(object: number, name: string): void {
    const { words } = this.#memory
    const place = this.#placeOf(object, name)
    const member = words[place >>> 2]!
    this.#put(place, words[(member + 8) >>> 2]!)
    this.#put(object + 12, words[(object + 12) >>> 2]! - 1)
  }

  /** Makes room for one more member, in a new table with new members, so that the old one can be put back. */
  #growTable(object: number): void {
    const memory = this.#memory
    const [buckets, length] = [
      memory.words[(object + 8) >>> 2]!,
      memory.words[(object + 12) >>> 2]!,
    ]
    const load = buckets < largeTable ? 0.7 : largeLoad
    if (length + 1 <= buckets * load) return
    const grown = bucketsFor(length + 1)
    const table = memory.allocate(4 * grown + size.member * length)
    const { words, bytes } = memory
    words.fill(0, table >>> 2, (table >>> 2) + grown)
    let free = table + 4 * grown
    const old = words[(object + 4) >>> 2]!
    for (let i = 0; i < buckets; i++) {
      for (let at = words[(old + 4 * i) >>> 2]!; at !== 0; at = words[(at + 8) >>> 2]!) {
        const name = words[at >>> 2]!
        const text = words[(name + 8) >>> 2]!
        const hash = hashOf(bytes, text, text + words[(name + 4) >>> 2]!)
        memory.link(table + 4 * (hash % grown), free, name, words[(at + 4) >>> 2]!)
        free += size.member
      }
    }
    this.#put(object + 4, table)
    this.#put(object + 8, grown)
  }

  /** Where the address of an element is stored. */
  #element(list: number, index: number): number {
    return this.#memory.words[(list + 4) >>> 2]! + 8 * index + 4
  }

  #insertElement(list: number, index: number, value: number): void {
    const memory = this.#memory
    const length = memory.words[(list + 8) >>> 2]!
    if (length === memory.words[(list + 12) >>> 2]!) this.#growList(list, length)
    const number = writeIndex(memory, length)
    const from = this.#element(list, 0)
    // The place may hold the index of an element that this change has removed.
    this.#put(from + 8 * length - 4, number)
    shift(memory.words, from, length, index, value)
    this.#done.push(() => unshift(memory.words, from, length + 1, index))
    this.#put(list + 8, length + 1)
  }

  #removeElement(list: number, index: number): void {
    const memory = this.#memory
    const length = memory.words[(list + 8) >>> 2]!
    const from = this.#element(list, 0)
    const removed = memory.words[this.#element(list, index) >>> 2]!
    unshift(memory.words, from, length, index)
    this.#done.push(() => shift(memory.words, from, length - 1, index, removed))
    this.#put(list + 8, length - 1)
  }

  #growList(list: number, length: number): void {
    const memory = this.#memory
    const room = Math.max(4, 2 * length)
    const at = memory.allocate(8 * room)
    const { words } = memory
    const from = words[(list + 4) >>> 2]! >>> 2
    words.copyWithin(at >>> 2, from, from + 2 * length)
    this.#put(list + 4, at)
    this.#put(list + 12, room)
  }

  #write(text: string): number {
    return new DataWriter(this.#memory, Buffer.from(text)).write()
  }

  #put(at: number, value: number): void {
    const memory = this.#memory
    const before = memory.words[at >>> 2]!
    this.#done.push(() => {
      memory.words[at >>> 2] = before
    })
    memory.words[at >>> 2] = value
  }
}

/** Moves the elements from `index` on one place up. @param from Where the first of `length` elements is stored */
function shift(
  words: Uint32Array,
  from: number,
  length: number,
  index: number,
  value: number,
): void {
  for (let i = length; i > index; i--)
    words[(from + 8 * i) >>> 2] = words[(from + 8 * i - 8) >>> 2]!
  words[(from + 8 * index) >>> 2] = value
}

function unshift(words: Uint32Array, from: number, length: number, index: number): void {
  for (let i = index; i < length - 1; i++)
    words[(from + 8 * i) >>> 2] = words[(from + 8 * i + 8) >>> 2]!
}

/** -1 for what is no index. */
function indexOf(step: string): number {
  return /^(?:0|[1-9][0-9]{0,8})$/.test(step) ? Number(step) : -1
}
