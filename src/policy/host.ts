/**
 * Room: policy. In: a compiled OPA module, its data, the input of an exchange as JSON text. Out: the result as JSON
 * text. Never does: I/O, await, let one evaluation see anything of another.
 *
 * The ABI is OPA's (https://www.openpolicyagent.org/docs/wasm). Before each evaluation, the heap is reset to the end of
 * the data. A module that matches regular expressions or globs is reset only before every 64th evaluation, since the
 * reset discards its compiled patterns, and compiling one costs 30 times a match. After a throw, also where it was
 * interrupted, the module is put back into the state in which it had read its data. After any other trap, the
 * instance is broken and its owner must make another.
 */
import { quote } from '../domain/json.ts'
import { GateError } from '../errors.ts'
import { Evaluation } from '../rego/evaluation.ts'
import { builtins, explainMissing } from '../rego/registry.ts'
import { textOf } from '../rego/values/bytes.ts'
import { compare, parseTerm, toJson, type Value } from '../rego/values/value.ts'
import { changeData } from './data-change.ts'
import { isImage, type MemoryImage } from './data-image.ts'
import { checkLayout, loadData, tooLarge } from './data-load.ts'
import { DataMemory, type ModuleHeap, valueType } from './data-memory.ts'
import { printData } from './data-text.ts'
import { stackPointerExport } from './module.ts'
import { hostFunctions, replacedNatives } from './natives.ts'
import type { DataOperation } from './patch.ts'
import { Scans } from './scans.ts'
import { allowStepsExport, heapInitExport, mostSteps, noObjectId, stepsExport } from './steps.ts'
import { type Allowance, TimeLimit, unlimited } from './time-limit.ts'

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
  readonly [stepsExport]: WebAssembly.Global
  readonly [allowStepsExport]: (steps: number) => void
  readonly [heapInitExport]: (heapBase: number) => void
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
  allowStepsExport,
  heapInitExport,
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
  readonly data: string | Uint8Array | MemoryImage
  /** Memory limit of the instance in bytes; an evaluation that needs more throws. */
  readonly maxMemoryBytes: number
  /** With an image: the constructor copies nothing of it, `copyPiece` does. */
  readonly inPieces?: boolean
  /** True when the module compiles patterns; then its heap is kept between evaluations. See input-usage.ts. */
  readonly keepHeap?: boolean
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
  /** Position of the `data` document. */
  #dataAt: number
  /** The module's variables, which lie between stack and heap, as they were when the data was read. */
  #variables: Uint8Array = new Uint8Array()
  readonly #variablesEnd: number
  /** Position to which the heap is reset. */
  #heapBase: number
  /** What is not copied yet of the image from which this instance is made. */
  #missing: { readonly image: MemoryImage; at: number } | undefined
  readonly #maxMemoryBytes: number
  readonly #evaluationsPerHeap: number
  /** Number of evaluations left until the heap is reset. */
  #heapUses = 0
  #view: Buffer
  readonly #evaluation = new Evaluation()
  readonly #time = new TimeLimit()
  readonly #scans: Scans
  #aborted = ''
  #ranOut = false
  #broken = false
  readonly entrypoints: ReadonlyMap<string, number>

  /** @throws GateError ERR_BUNDLE_POLICY */
  constructor(options: InstanceOptions) {
    const { module, initialPages, data, maxMemoryBytes } = options
    const maximum = Math.floor(maxMemoryBytes / pageBytes)
    if (initialPages > maximum)
      throw tooLarge(`the policy needs ${initialPages * pageBytes} bytes of memory`, maxMemoryBytes)
    this.#memory = new WebAssembly.Memory({ initial: initialPages, maximum })
    this.#maxMemoryBytes = maxMemoryBytes
    this.#evaluationsPerHeap = options.keepHeap === true ? evaluationsPerHeap : 1
    this.#view = Buffer.from(this.#memory.buffer)
    this.#exports = this.#instantiate(module)
    this.#stackPointer = this.#exports[stackPointerExport]
    this.#scans = new Scans(this.#exports.__dropgate_compare ?? this.#compareTerms)
    this.#stackBase = this.#stackPointer.value
    const variablesEnd = this.#exports.opa_heap_ptr_get()
    this.#exports[allowStepsExport](mostSteps)
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
      const { context, inputAt, dataAt } = this.#load(data, maxMemoryBytes)
      this.#context = context
      this.#inputAt = inputAt
      this.#dataAt = dataAt
      this.#heapBase = isImage(data) ? data.bytes.length : this.#exports.opa_heap_ptr_get()
      this.#variablesEnd = variablesEnd
      if (options.inPieces !== true) this.copyPiece(this.#heapBase)
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

  /** Makes the instance count as broken. */
  discard(): void {
    this.#broken = true
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
   * @throws GateError ERR_POLICY_FAILED; `broken` tells whether the instance can be used again. ERR_POLICY_TIMEOUT
   */
  evaluate(
    entrypoint: number,
    inputText: string,
    format: Format = 'json',
    allowance: Allowance = unlimited,
  ): string {
    let kept = this.#heapUses > 0
    let steps = this.#time.begin(allowance)
    for (;;) {
      try {
        this.#exports[allowStepsExport](steps)
        return this.#evaluate(entrypoint, inputText, format)
      } catch (error) {
        if (this.#ranOut) steps = this.#time.again()
        // Earlier evaluations may have filled the memory. The heap has been reset by now, so try once more.
        else if (kept && this.#aborted === outOfMemory) kept = false
        else throw error
      }
    }
  }

  #evaluate(entrypoint: number, inputText: string, format: Format): string {
    const exports = this.#exports
    this.#evaluation.reset()
    this.#scans.reset()
    this.#aborted = ''
    this.#ranOut = false
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
      if (error instanceof WebAssembly.RuntimeError && this.#aborted === '') {
        this.#ranOut = this.#exports[stepsExport].value < 0
        if (!this.#ranOut) this.#broken = true
      }
      this.#recover()
      if (error instanceof GateError && error.code === 'ERR_POLICY_TIMEOUT') throw error
      throw failed(this.#aborted === '' ? String((error as Error).message) : this.#why(), error)
    }
  }

  /**
   * Puts the module back into the state in which it had read its data: what was under way may have left anything half
   * done in its variables (a list of free memory, a pattern that was being compiled). The data itself is not written to.
   */
  #recover(): void {
    this.#heapUses = 0
    this.#stackPointer.value = this.#stackBase
    this.#refresh()
    this.#view.set(this.#variables, this.#stackBase)
    try {
      this.#exports[allowStepsExport](mostSteps)
      this.#exports[heapInitExport](this.#heapBase)
    } catch {
      this.#broken = true
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
    return {
      bytes,
      memoryBytes,
      context: this.#context,
      inputAt: this.#inputAt,
      dataAt: this.#dataAt,
    }
  }

  /**
   * Loads the data. The whole state of an instance is in its memory, except the shadow stack pointer, which a new
   * instance sets itself.
   */
  #load(
    data: InstanceOptions['data'],
    maxMemoryBytes: number,
  ): Pick<MemoryImage, 'context' | 'inputAt' | 'dataAt'> {
    const exports = this.#exports
    if (isImage(data)) {
      this.#memory.grow((data.memoryBytes - this.memoryBytes) / pageBytes)
      this.#missing = { image: data, at: 0 }
      return data
    }
    const heap = this.#heap()
    checkLayout(heap, {
      parse: (text) => exports.opa_json_parse(...this.#place(text)),
      dump: (value) => this.#textAt(exports.opa_value_dump(value)),
    })
    const dataAt = loadData({
      heap,
      text: Buffer.from(data),
      maxMemoryBytes,
      outOfMemory: () => this.#aborted === outOfMemory,
    })
    const context = exports.opa_eval_ctx_new()
    exports.opa_eval_ctx_set_data(context, dataAt)
    return { context, inputAt: exports.opa_malloc(usualInputBytes), dataAt }
  }

  #heap(): ModuleHeap {
    const exports = this.#exports
    // What an evaluation has left of its steps says nothing about what is done with the data.
    exports[allowStepsExport](mostSteps)
    return {
      memory: this.#memory,
      allocate: (bytes) => exports.opa_malloc(bytes) >>> 0,
      end: () => exports.opa_heap_ptr_get() >>> 0,
      setEnd: (at) => exports.opa_heap_ptr_set(at),
    }
  }

  /**
   * Copies up to this many bytes of the image. @returns true once all of it is there; nothing may be evaluated before
   */
  copyPiece(bytes: number): boolean {
    if (this.#missing !== undefined) {
      const { image, at } = this.#missing
      const piece = image.bytes.subarray(at, at + bytes)
      new Uint8Array(this.#memory.buffer).set(piece, at)
      this.#missing.at += piece.length
      if (this.#missing.at < image.bytes.length) return false
      this.#missing = undefined
    }
    if (this.#variables.length === 0) {
      const all = new Uint8Array(this.#memory.buffer)
      this.#variables = all.slice(this.#stackBase, this.#variablesEnd)
    }
    return true
  }

  /**
   * Changes the data between two evaluations. The heap is reset first: what a kept heap holds may point into the old
   * data.
   * @param operations All of them are applied or none. @throws GateError ERR_DATA_PATCH, ERR_BUNDLE_LIMITS
   */
  patch(operations: readonly DataOperation[]): void {
    const heap = this.#heap()
    heap.setEnd(this.#heapBase)
    this.#heapUses = 0
    this.#aborted = ''
    const memory = new DataMemory(heap)
    try {
      this.#dataAt = changeData(memory, this.#dataAt, operations)
      this.#heapBase = memory.finish()
    } catch (error) {
      this.#stackPointer.value = this.#stackBase
      memory.abandon(this.#heapBase)
      if (this.#aborted !== outOfMemory) throw error
      throw tooLarge('the changed data needs more memory than there is', this.#maxMemoryBytes)
    }
    this.#exports.opa_eval_ctx_set_data(this.#context, this.#dataAt)
  }

  /** The data as JSON text. */
  dataText(): Buffer {
    return printData(new DataMemory(this.#heap()), this.#dataAt)
  }

  /** Bytes below the heap: the data, and what changes of it have left behind. */
  get dataBytes(): number {
    return this.#heapBase
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

  /** The module's own message, or the option that limits its memory. */
  #why(): string {
    return this.#aborted === outOfMemory
      ? 'the evaluation needs more memory than policy.max_memory allows'
      : this.#aborted
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
    if (id === noObjectId) throw failed('`with` sets a member of something that is not an object')
    this.#time.beforeHostCall()
    const texts = args.map((arg) => this.#termAt(this.#exports.opa_value_dump(arg)))
    const name = id < 0 ? replacedNatives[-1 - id]?.builtin : this.#builtins[id]
    const result = this.#evaluation.call(name ?? String(id), texts)
    const at =
      result === undefined
        ? 0
        : typeof result === 'object'
          ? this.#rawString(result)
          : this.#exports.opa_value_parse(...this.#place(result))
    this.#time.afterHostCall()
    return at
  }

  /** Answers one of `hostFunctions`, whose results are no builtin's. */
  #serve(id: number, a: number, b: number): number {
    this.#refresh()
    this.#time.beforeHostCall()
    const found =
      id === hostFunctions.compare
        ? this.#compareTerms(a, b)
        : id === hostFunctions.nextKey
          ? this.#scans.next(this.#view, a, b)
          : this.#byOtherKey(a, b)
    this.#time.afterHostCall()
    return found
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
    const index = /^"?(?:\+|-(?=0+(?:\.0*)?"?$))?0*(\d{1,9})(?:\.0*)?"?$/.exec(text)?.[1]
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
    for (const name of [
      'opa_wasm_abi_version',
      'opa_wasm_abi_minor_version',
      stackPointerExport,
      stepsExport,
    ]) {
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
