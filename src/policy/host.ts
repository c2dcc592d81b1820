/**
 * Room: policy. In: a compiled OPA module, its data, the input of an exchange as JSON text. Out: the result as JSON
 * text. Never does: I/O, await, let one evaluation see anything of another.
 *
 * The ABI is OPA's (https://www.openpolicyagent.org/docs/wasm). Before each evaluation, the heap is reset to the end of
 * the data. A module that matches regular expressions or globs is reset only before every 64th evaluation, since the
 * reset discards its compiled patterns, and compiling one costs 30 times a match. After a throw, the heap and the
 * shadow stack pointer are restored. After a trap, the instance is broken and its owner must make another.
 */
import { quote } from '../domain/json.ts'
import { GateError } from '../errors.ts'
import { Evaluation } from '../rego/evaluation.ts'
import { builtins, explainMissing } from '../rego/registry.ts'
import { textOf } from '../rego/values/bytes.ts'
import { compare, parseTerm, toJson, type Value } from '../rego/values/value.ts'
import { valueType } from './guards.ts'
import { stackPointerExport } from './module.ts'
import { hostFunctions, replacedNatives } from './natives.ts'
import { Scans } from './scans.ts'

const pageBytes = 65536

interface Exports {
  readonly eval: (context: number) => number
  readonly opa_eval_ctx_new: () => number
  readonly opa_eval_ctx_set_data: (context: number, data: number) => void
  readonly opa_eval_ctx_set_input: (context: number, input: number) => void
  readonly opa_eval_ctx_set_entrypoint: (context: number, entrypoint: number) => void
  readonly opa_eval_ctx_get_result: (context: number) => number
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
  /** Functions of the module that module.ts exports where it has them. */
  readonly __dropgate_compare?: (a: number, b: number) => number
  readonly __dropgate_get?: (collection: number, key: number) => number
}

const neededFunctions = [
  'eval',
  'opa_eval_ctx_new',
  'opa_eval_ctx_set_data',
  'opa_eval_ctx_set_input',
  'opa_eval_ctx_set_entrypoint',
  'opa_eval_ctx_get_result',
  'opa_json_parse',
  'opa_json_dump',
  'opa_value_parse',
  'opa_value_dump',
  'opa_malloc',
  'opa_heap_ptr_get',
  'opa_heap_ptr_set',
  'entrypoints',
  'builtins',
] as const satisfies readonly (keyof Exports)[]

/**
 * For modules that keep compiled patterns: the number of evaluations between two resets, and the bytes that they may
 * leave on the heap.
 */
const evaluationsPerHeap = 64
const keptHeapBytes = 1 << 20

/** The module's message when its memory is used up. */
const outOfMemory = 'opa_malloc: failed'

/** Space for an input outside the heap; its content is not used after its evaluation. */
const usualInputBytes = 32 << 10

/** The most frequent results, compared by their bytes, so that no text is made of them. */
const allowResult = '[{"result":true}]'
const denyResult = '[{"result":false}]'
const usualResults = [allowResult, denyResult, '[]'].map((text) => ({
  text,
  bytes: Buffer.from(`${text}\0`),
}))

type Format = 'json' | 'terms'

export interface InstanceOptions {
  readonly module: WebAssembly.Module
  /** Pages the module asks for, see module.ts. */
  readonly initialPages: number
  /** The `data` document as JSON text, or the memory of an instance of the same module that has read it. */
  readonly data: string | MemoryImage
  /** Memory limit of the instance in bytes; an evaluation that needs more throws. */
  readonly maxMemoryBytes: number
  /** True when the module compiles patterns; then its heap is kept between evaluations. See input-usage.ts. */
  readonly keepHeap?: boolean
}

/** The memory after the data is loaded, with the positions of the things in it. All threads share its bytes. */
export interface MemoryImage {
  readonly bytes: Uint8Array
  /** Size of the whole memory. It is larger than `bytes`: the allocator inside `bytes` counts on the full size. */
  readonly memoryBytes: number
  readonly context: number
  readonly inputAt: number
}

export class PolicyInstance {
  readonly #memory: WebAssembly.Memory
  readonly #exports: Exports
  readonly #stackPointer: WebAssembly.Global
  readonly #stackBase: number
  readonly #builtins: readonly string[]
  /** `opa_eval_ctx_t`, below the heap's base. */
  readonly #context: number
  /** Position for inputs of usual size, below the heap's base. */
  readonly #inputAt: number
  /** Position to which the heap is reset. */
  readonly #heapBase: number
  readonly #evaluationsPerHeap: number
  /** Number of evaluations left until the heap is reset. */
  #heapUses = 0
  #view: Buffer
  readonly #evaluation = new Evaluation()
  readonly #scans: Scans
  #aborted = ''
  #broken = false
  readonly entrypoints: ReadonlyMap<string, number>

  /** @throws GateError ERR_BUNDLE_POLICY */
  constructor(options: InstanceOptions) {
    const { module, initialPages, data, maxMemoryBytes } = options
    const maximum = Math.floor(maxMemoryBytes / pageBytes)
    if (initialPages > maximum) throw unusable('it needs more memory than policy.max_memory')
    this.#memory = new WebAssembly.Memory({ initial: initialPages, maximum })
    this.#evaluationsPerHeap = options.keepHeap === true ? evaluationsPerHeap : 1
    this.#view = Buffer.from(this.#memory.buffer)
    this.#exports = this.#instantiate(module)
    this.#stackPointer = this.#exports[stackPointerExport]
    this.#scans = new Scans(this.#exports.__dropgate_compare ?? this.#compareTerms)
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
      const { context, inputAt } = this.#load(data)
      this.#context = context
      this.#inputAt = inputAt
      this.#heapBase = this.#exports.opa_heap_ptr_get()
    } catch (error) {
      throw error instanceof GateError
        ? error
        : unusable('it fails while its data is loaded', error)
    }
  }

  /** Builtins that the module calls and dropgate does not provide, each with a replacement to use. */
  get missingBuiltins(): readonly string[] {
    return this.#builtins.filter((name) => name !== '' && !builtins.has(name)).map(explainMissing)
  }

  /** True after a trap: this instance must not be used any more. */
  get broken(): boolean {
    return this.#broken
  }

  /** Size of the instance's memory in bytes; it never shrinks. */
  get memoryBytes(): number {
    return this.#memory.buffer.byteLength
  }

  /**
   * `nd_builtin_cache` of the last evaluation: results of builtins that read the clock or random numbers; undefined
   * when it called none.
   */
  get ndBuiltinCache(): string | undefined {
    const answers = this.#evaluation.ndBuiltinCache
    if (answers.size === 0) return undefined
    const members = Array.from(answers, ([name, calls]) => {
      const inner = Array.from(calls, ([args, value]) => `${quote(args)}:${value ?? 'null'}`)
      return `${quote(name)}:{${inner.join(',')}}`
    })
    return `{${members.join(',')}}`
  }

  /**
   * @param inputText JSON text.
   * @param format `terms` for text that distinguishes sets from arrays, in input and result; JSON does not.
   * @returns the result set as text: `[{"result": …}]`, or `[]` for undefined.
   * @throws GateError ERR_POLICY_FAILED; `broken` tells whether the instance can be used again.
   */
  evaluate(entrypoint: number, inputText: string, format: Format = 'json'): string {
    const kept = this.#heapUses > 0
    try {
      return this.#evaluate(entrypoint, inputText, format)
    } catch (error) {
      // Earlier evaluations may have filled the memory. The heap has been reset by now, so try once more.
      if (kept && this.#aborted === outOfMemory)
        return this.#evaluate(entrypoint, inputText, format)
      throw error
    }
  }

  #evaluate(entrypoint: number, inputText: string, format: Format): string {
    const exports = this.#exports
    this.#evaluation.reset()
    this.#scans.reset()
    this.#aborted = ''
    try {
      if (this.#heapUses-- <= 0 || exports.opa_heap_ptr_get() - this.#heapBase > keptHeapBytes) {
        exports.opa_heap_ptr_set(this.#heapBase)
        this.#heapUses = this.#evaluationsPerHeap - 1
      }
      const [at, bytes] = this.#placeInput(inputText)
      const input =
        format === 'terms' ? exports.opa_value_parse(at, bytes) : exports.opa_json_parse(at, bytes)
      // 0 means that the text is not JSON. The evaluation must not go on, since it would decide without any input.
      if (input === 0) throw failed('the input is not JSON')
      exports.opa_eval_ctx_set_input(this.#context, input)
      exports.opa_eval_ctx_set_entrypoint(this.#context, entrypoint)
      if (exports.eval(this.#context) !== 0)
        throw failed('the module ended the evaluation with an error')
      const result = exports.opa_eval_ctx_get_result(this.#context)
      return format === 'terms'
        ? this.#textAt(exports.opa_value_dump(result))
        : this.#jsonOf(result)
    } catch (error) {
      this.#heapUses = 0
      this.#stackPointer.value = this.#stackBase
      if (error instanceof WebAssembly.RuntimeError) this.#broken = this.#aborted === ''
      if (error instanceof RangeError) this.#broken = true
      throw failed(this.#aborted === '' ? String((error as Error).message) : this.#aborted, error)
    }
  }

  /**
   * A copy of the memory for other instances. Call it before the first evaluation, which would leave its traces in the
   * copy.
   */
  image(): MemoryImage {
    const bytes = new Uint8Array(new SharedArrayBuffer(this.#heapBase))
    bytes.set(new Uint8Array(this.#memory.buffer, 0, this.#heapBase))
    const { memoryBytes } = this
    return { bytes, memoryBytes, context: this.#context, inputAt: this.#inputAt }
  }

  /**
   * Loads the data. The whole state of an instance is in its memory, except the shadow stack pointer, which a new
   * instance sets itself.
   */
  #load(data: string | MemoryImage): Pick<MemoryImage, 'context' | 'inputAt'> {
    const exports = this.#exports
    if (typeof data !== 'string') {
      this.#memory.grow((data.memoryBytes - this.memoryBytes) / pageBytes)
      new Uint8Array(this.#memory.buffer).set(data.bytes)
      return data
    }
    const at = exports.opa_json_parse(...this.#place(data))
    if (at === 0) throw unusable('its data is not JSON')
    const context = exports.opa_eval_ctx_new()
    exports.opa_eval_ctx_set_data(context, at)
    return { context, inputAt: exports.opa_malloc(usualInputBytes) }
  }

  #jsonOf(result: number): string {
    const at = this.#exports.opa_json_dump(result)
    this.#refresh()
    for (const { text, bytes } of usualResults) if (this.#holds(at, bytes)) return text
    const json = this.#textAt(at)
    if (json.indexOf('[', 1) === -1 && !json.includes('"{')) return json
    // The module prints a set in the order of hashes, OPA in the order of members. So the result is read in the form of
    // terms, where sets have braces, and the sets are sorted. The result set itself is a set too.
    const terms = this.#textAt(this.#exports.opa_value_dump(result))
    // Keys that are no texts are made texts by the module as well.
    return braces(terms) > braces(json) + 1 || /"[[{]/.test(json) ? toJson(parseTerm(terms)) : json
  }

  #holds(at: number, bytes: Uint8Array): boolean {
    const view = this.#view
    for (let i = 0; i < bytes.length; i++) if (view[at + i] !== bytes[i]) return false
    return true
  }

  /** Makes a new view when the memory has grown: the old view then reads as empty. */
  #refresh(): void {
    if (this.#view.buffer !== this.#memory.buffer) this.#view = Buffer.from(this.#memory.buffer)
  }

  #textAt(at: number): string {
    this.#refresh()
    const end = this.#view.indexOf(0, at)
    if (at <= 0 || end === -1) throw this.#noText()
    return this.#view.toString('utf8', at, end)
  }

  /** What is in its memory can no longer be what it has put there. */
  #noText(): GateError {
    this.#broken = true
    return failed('the module gave no text back')
  }

  #dump(value: number): string {
    return this.#textAt(this.#exports.opa_json_dump(value))
  }

  #placeInput(text: string): [at: number, bytes: number] {
    // UTF-8 needs at most three bytes for each UTF-16 unit.
    if (text.length * 3 > usualInputBytes) return this.#place(text)
    this.#refresh()
    return [this.#inputAt, this.#view.write(text, this.#inputAt, 'utf8')]
  }

  /** Puts text on the heap as UTF-8; lone surrogates become U+FFFD. */
  #place(text: string): [at: number, bytes: number] {
    const bytes = Buffer.byteLength(text)
    const at = this.#exports.opa_malloc(bytes)
    this.#refresh()
    this.#view.write(text, at, 'utf8')
    return [at, bytes]
  }

  #call(id: number, args: readonly number[]): number {
    const texts = args.map((arg) => this.#termAt(this.#exports.opa_value_dump(arg)))
    const name = id < 0 ? replacedNatives[-1 - id]?.builtin : this.#builtins[id]
    const result = this.#evaluation.call(name ?? String(id), texts)
    if (typeof result === 'object') return this.#rawString(result)
    return result === undefined ? 0 : this.#exports.opa_value_parse(...this.#place(result))
  }

  /** Answers one of `hostFunctions`, whose results are no builtin's. */
  #serve(id: number, a: number, b: number): number {
    this.#refresh()
    if (id === hostFunctions.nextKey) return this.#scans.next(this.#view, a, b)
    if (id === hostFunctions.otherKey) return this.#byOtherKey(a, b)
    return this.#compareTerms(a, b)
  }

  #compareTerms = (a: number, b: number): number =>
    Math.sign(compare(...([a, b].map((each) => this.#term(each)) as [Value, Value])))

  /** A member of base data by a key of another type, as OPA's store finds it by path; 0 for none. */
  #byOtherKey(collection: number, key: number): number {
    const { __dropgate_get: get, opa_value_parse: parse } = this.#exports
    // What an evaluation has made is no base data, and is found by its own keys alone.
    if (collection >= this.#heapBase || get === undefined) return 0
    const text = this.#termAt(this.#exports.opa_value_dump(key))
    if (this.#view[collection] === valueType.object)
      return get(collection, parse(...this.#place(`"${text}"`)))
    const index = /^"?\+?0*(\d{1,9})(?:\.0*)?"?$/.exec(text)?.[1]
    return index === undefined ? 0 : get(collection, parse(...this.#place(index)))
  }

  #term(at: number): Value {
    return parseTerm(this.#termAt(this.#exports.opa_value_dump(at)))
  }

  /** Text of a term; bytes that are not UTF-8 are written as in bytes.ts. */
  #termAt(at: number): string {
    this.#refresh()
    const end = this.#view.indexOf(0, at)
    if (at <= 0 || end === -1) throw this.#noText()
    return textOf(this.#view.subarray(at, end))
  }

  /**
   * Makes a string that the module's parser would refuse: it parses a string of equal length, whose bytes are then
   * overwritten.
   */
  #rawString(bytes: Buffer): number {
    const letters = 'x'.repeat(bytes.length)
    const at = this.#exports.opa_value_parse(...this.#place(`"${letters}"`))
    this.#refresh()
    // Layout of OPA's opa_string_t: type at 0, length at 4, address of the bytes at 8.
    const [length, data] = [this.#view.readUInt32LE(at + 4), this.#view.readUInt32LE(at + 8)]
    if (length !== bytes.length || this.#view.toString('latin1', data, data + length) !== letters) {
      throw failed('the module stores strings in another way than OPA 1.x')
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
      opa_builtin2: (id: number, _: number, a: number, b: number) =>
        id <= hostFunctions.nextKey ? this.#serve(id, a, b) : this.#call(id, [a, b]),
      opa_builtin3: (id: number, _: number, ...args: number[]) => this.#call(id, args),
      opa_builtin4: (id: number, _: number, ...args: number[]) => this.#call(id, args),
    }
    let exports: Record<string, unknown>
    try {
      exports = new WebAssembly.Instance(module, { env }).exports
    } catch (error) {
      throw unusable('it cannot be instantiated', error)
    }
    for (const name of neededFunctions) {
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

function braces(text: string): number {
  let count = 0
  for (let at = text.indexOf('{'); at !== -1; at = text.indexOf('{', at + 1)) count++
  return count
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
