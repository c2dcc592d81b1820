/**
 * Reads OPA values in the memory of a module back as JSON text. Members come in the order in which the module holds
 * them; numbers keep their digits.
 */
import { type DataMemory, numberForm, valueType } from './data-memory.ts'

const pieceBytes = 1 << 16

/** @throws Error when the memory holds anything but null, booleans, numbers, strings, lists and objects */
export function printData(memory: DataMemory, value: number): Buffer {
  const printer = new Printer(memory)
  printer.print(value)
  return printer.finish()
}

class Printer {
  readonly #memory: DataMemory
  readonly #pieces: Buffer[] = []
  #text = ''

  constructor(memory: DataMemory) {
    this.#memory = memory
  }

  finish(): Buffer {
    this.#pieces.push(Buffer.from(this.#text))
    return Buffer.concat(this.#pieces)
  }

  print(value: number): void {
    const { words } = this.#memory
    const type = this.#memory.typeOf(value)
    const [at, length] = [words[(value + 4) >>> 2]!, words[(value + 8) >>> 2]!]
    if (type === valueType.array) this.#list(at, length)
    else if (type === valueType.object) this.#object(at, length)
    else this.#add(this.#scalar(value, type))
  }

  #scalar(value: number, type: number): string {
    switch (type) {
      case valueType.null:
        return 'null'
      case valueType.boolean:
        return this.#memory.bytes[value + 1] === 0 ? 'false' : 'true'
      case valueType.number:
        return this.#number(value)
      case valueType.string:
        return JSON.stringify(this.#memory.textOf(value))
      default:
        throw new Error(`there is no value at ${value}`)
    }
  }

  #add(text: string): void {
    this.#text += text
    if (this.#text.length < pieceBytes) return
    this.#pieces.push(Buffer.from(this.#text))
    this.#text = ''
  }

  #number(value: number): string {
    const { words, bytes } = this.#memory
    if (bytes[value + 1] === numberForm.integer)
      return new DataView(bytes.buffer).getBigInt64(value + 8, true).toString()
    const at = words[(value + 8) >>> 2]!
    return Buffer.from(bytes.buffer, at, words[(value + 12) >>> 2]!).toString('latin1')
  }

  #list(elements: number, length: number): void {
    const { words } = this.#memory
    this.#add('[')
    for (let i = 0; i < length; i++) {
      if (i > 0) this.#add(',')
      this.print(words[(elements + 8 * i + 4) >>> 2]!)
    }
    this.#add(']')
  }

  #object(table: number, buckets: number): void {
    const { words } = this.#memory
    let separator = '{'
    for (let i = 0; i < buckets; i++) {
      for (let at = words[(table + 4 * i) >>> 2]!; at !== 0; at = words[(at + 8) >>> 2]!) {
        this.#add(separator)
        this.print(words[at >>> 2]!)
        this.#add(':')
        this.print(words[(at + 4) >>> 2]!)
        separator = ','
      }
    }
    this.#add(separator === '{' ? '{}' : '}')
  }
}
