/**
 * Room: policy. In: a compiled OPA module, its data, the input of an exchange as JSON text. Out: the result as
 * JSON text. Never does: I/O, awaiting, keeping anything of one evaluation for the next.
 *
 * The ABI is OPA's (https://www.openpolicyagent.org/docs/wasm): one `opa_eval` per evaluation, the heap set back
 * to where the data ends. After a throw the shadow stack pointer is put back; after a trap the instance is
 * broken and its owner makes another.
 */
import { GateError } from '../errors.ts'
import { textOf } from './builtins/bytes.ts'
import { Evaluation } from './builtins/evaluation.ts'
import { builtins, explainMissing } from './builtins/table.ts'
import { stackPointerExport } from './module.ts'

const pageBytes = 65536

interface Exports {
  readonly opa_eval: (
    reserved: 0,
    entrypoint: number,
    data: number,
    input: number,
    inputBytes: number,
    heap: number,
    format: 0 | 1,
  ) => number
  readonly opa_json_parse: (at: number, bytes: number) => number
  readonly opa_json_dump: (value: number) => number
  readonly opa_value_parse: (at: number, bytes: number) => number
  readonly opa_value_dump: (value: number) => number
  readonly opa_malloc: (bytes: number) => number
  readonly opa_heap_ptr_get: () => number
  readonly opa_heap_ptr_set: (at: number) => void
  readonly entrypoints: () => number
  readonly builtins: () => number
  readonly opa_wasm_abi_version: WebAssembly.Global
  readonly opa_wasm_abi_minor_version: WebAssembly.Global
  readonly [stackPointerExport]: WebAssembly.Global
}

export interface InstanceOptions {
  readonly module: WebAssembly.Module
  /** Pages the module asks for, see module.ts. */
  readonly initialPages: number
  /** The `data` document as JSON text. */
  readonly data: string
  /** Most bytes of memory the instance may take; more makes the evaluation throw. */
  readonly maxMemoryBytes: number
}

export class PolicyInstance {
  readonly #memory: WebAssembly.Memory
  readonly #exports: Exports
  readonly #stackPointer: WebAssembly.Global
  readonly #stackBase: number
  readonly #maxPages: number
  readonly #builtins: readonly string[]
  readonly #data: number
  /** Where the heap begins again for each evaluation. */
  readonly #heapBase: number
  #view: Buffer
  readonly #evaluation = new Evaluation()
  #aborted = ''
  #broken = false
  readonly entrypoints: ReadonlyMap<string, number>

  /** @throws GateError ERR_BUNDLE_POLICY */
  constructor(options: InstanceOptions) {
    const { module, initialPages, data, maxMemoryBytes } = options
    this.#maxPages = Math.floor(maxMemoryBytes / pageBytes)
    if (initialPages > this.#maxPages) throw unusable('it needs more memory than policy.max_memory')
    this.#memory = new WebAssembly.Memory({ initial: initialPages, maximum: this.#maxPages })
    this.#view = Buffer.from(this.#memory.buffer)
    this.#exports = this.#instantiate(module)
    this.#stackPointer = this.#exports[stackPointerExport]
    this.#stackBase = this.#stackPointer.value
    if (
      this.#exports.opa_wasm_abi_version.value !== 1 ||
      this.#exports.opa_wasm_abi_minor_version.value < 2
    ) {
      throw unusable('its ABI is not OPA 1.2 or a later 1.x')
    }
    try {
      this.#builtins = namesById(this.#dump(this.#exports.builtins()))
      for (const name of this.#builtins) builtins.get(name)?.load?.()
      this.entrypoints = new Map(
        Object.entries(
          JSON.parse(this.#dump(this.#exports.entrypoints())) as Record<string, number>,
        ),
      )
      this.#data = this.#exports.opa_json_parse(...this.#place(data))
      if (this.#data === 0) throw unusable('its data is not JSON')
      this.#heapBase = this.#exports.opa_heap_ptr_get()
    } catch (error) {
      throw error instanceof GateError
        ? error
        : unusable('it fails while its data is loaded', error)
    }
  }

  /** Builtins that the module asks its host for and dropgate does not have, each with what to use instead. */
  get missingBuiltins(): readonly string[] {
    return this.#builtins.filter((name) => name !== '' && !builtins.has(name)).map(explainMissing)
  }

  /** True after a trap: whatever it would answer now means nothing. */
  get broken(): boolean {
    return this.#broken
  }

  /**
   * @param inputText JSON text; lone surrogates become U+FFFD on the way into memory.
   * @param format `terms` tells sets from arrays, which JSON does not.
   * @returns the result set as text: `[{"result": …}]`, or `[]` for undefined.
   * @throws GateError ERR_POLICY_FAILED; `broken` tells whether the instance can be used again.
   */
  evaluate(entrypoint: number, inputText: string, format: 'json' | 'terms' = 'json'): string {
    this.#evaluation.reset()
    this.#aborted = ''
    try {
      const inputBytes = this.#writeInput(inputText)
      const at = this.#exports.opa_eval(
        0,
        entrypoint,
        this.#data,
        this.#heapBase,
        inputBytes,
        (this.#heapBase + inputBytes + 7) & ~7,
        format === 'json' ? 0 : 1,
      )
      return this.#textAt(at)
    } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) this.#broken = this.#aborted === ''
      if (error instanceof RangeError) this.#broken = true
      throw failed(this.#aborted === '' ? String((error as Error).message) : this.#aborted, error)
    } finally {
      this.#stackPointer.value = this.#stackBase
    }
  }

  #writeInput(text: string): number {
    // UTF-8 needs at most three bytes for each UTF-16 unit.
    this.#reserve(this.#heapBase + text.length * 3)
    const written = this.#view.write(text, this.#heapBase, 'utf8')
    return written
  }

  #reserve(endAt: number): void {
    const missing = endAt - this.#memory.buffer.byteLength
    if (missing > 0) {
      try {
        this.#memory.grow(Math.ceil(missing / pageBytes))
      } catch (error) {
        throw new GateError('ERR_POLICY_FAILED', 'the input does not fit into policy.max_memory', {
          cause: error,
        })
      }
    }
    this.#refresh()
  }

  /** A memory that has grown has a new buffer; the old view reads as empty. */
  #refresh(): void {
    if (this.#view.buffer !== this.#memory.buffer) this.#view = Buffer.from(this.#memory.buffer)
  }

  #textAt(at: number): string {
    this.#refresh()
    const end = this.#view.indexOf(0, at)
    if (at <= 0 || end === -1) throw failed('the module gave no text back')
    return this.#view.toString('utf8', at, end)
  }

  #dump(value: number): string {
    return this.#textAt(this.#exports.opa_json_dump(value))
  }

  /** Puts text on the heap. */
  #place(text: string): [at: number, bytes: number] {
    const bytes = Buffer.from(text)
    const at = this.#exports.opa_malloc(bytes.length)
    this.#refresh()
    bytes.copy(this.#view, at)
    return [at, bytes.length]
  }

  #call(id: number, args: readonly number[]): number {
    const texts = args.map((arg) => this.#termAt(this.#exports.opa_value_dump(arg)))
    const result = this.#evaluation.call(this.#builtins[id] ?? String(id), texts)
    if (typeof result === 'object') return this.#rawString(result)
    return result === undefined ? 0 : this.#exports.opa_value_parse(...this.#place(result))
  }

  /** Text of a term, bytes that are no UTF-8 as bytes.ts writes them. */
  #termAt(at: number): string {
    this.#refresh()
    const end = this.#view.indexOf(0, at)
    if (at <= 0 || end === -1) throw failed('the module gave no text back')
    return textOf(this.#view.subarray(at, end))
  }

  /** A string that the module's parser does not take: parsed as as many letters, which are then written over. */
  #rawString(bytes: Buffer): number {
    const letters = 'x'.repeat(bytes.length)
    const at = this.#exports.opa_value_parse(...this.#place(`"${letters}"`))
    this.#refresh()
    // OPA's opa_string_t: type, length at 4, where the bytes are at 8.
    const [length, data] = [this.#view.readUInt32LE(at + 4), this.#view.readUInt32LE(at + 8)]
    if (length !== bytes.length || this.#view.toString('latin1', data, data + length) !== letters) {
      throw failed('the module keeps strings in another way than OPA 1.x')
    }
    bytes.copy(this.#view, data)
    return at
  }

  #instantiate(module: WebAssembly.Module): Exports {
    const env = {
      memory: this.#memory,
      opa_abort: (at: number) => {
        this.#aborted = this.#textAt(at).slice(0, 500)
        throw failed(this.#aborted)
      },
      opa_println: () => {},
      opa_builtin0: (id: number) => this.#call(id, []),
      opa_builtin1: (id: number, _: number, ...args: number[]) => this.#call(id, args),
      opa_builtin2: (id: number, _: number, ...args: number[]) => this.#call(id, args),
      opa_builtin3: (id: number, _: number, ...args: number[]) => this.#call(id, args),
      opa_builtin4: (id: number, _: number, ...args: number[]) => this.#call(id, args),
    }
    let exports: Record<string, unknown>
    try {
      exports = new WebAssembly.Instance(module, { env }).exports
    } catch (error) {
      throw unusable('it cannot be instantiated', error)
    }
    const needed = [
      'opa_eval',
      'opa_json_parse',
      'opa_json_dump',
      'opa_value_parse',
      'opa_value_dump',
      'opa_malloc',
      'opa_heap_ptr_get',
      'entrypoints',
      'builtins',
    ]
    for (const name of needed) {
      if (typeof exports[name] !== 'function') throw unusable(`it does not export ${name}`)
    }
    for (const name of ['opa_wasm_abi_version', 'opa_wasm_abi_minor_version', stackPointerExport]) {
      if (!(exports[name] instanceof WebAssembly.Global))
        throw unusable(`it does not export ${name}`)
    }
    return exports as unknown as Exports
  }
}

function namesById(json: string): string[] {
  const names: string[] = []
  for (const [name, id] of Object.entries(JSON.parse(json) as Record<string, number>))
    names[id] = name
  return names
}

function failed(why: string, cause?: unknown): GateError {
  return new GateError('ERR_POLICY_FAILED', why, cause === undefined ? {} : { cause })
}

function unusable(why: string, cause?: unknown): GateError {
  return new GateError('ERR_BUNDLE_POLICY', `policy.wasm cannot be used: ${why}`, {
    ...(cause === undefined ? {} : { cause }),
    hint: 'build the bundle with `opa build -t wasm` of OPA 1.x',
  })
}
