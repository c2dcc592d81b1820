/**
 * Holds the `data` of the active policy as the workers have it, and tries every change before a worker sees it. It also
 * writes the data anew, without what earlier changes have left behind.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { asGateError, GateError } from '../errors.ts'
import type { DataReport, DataRequest, DataStart } from '../messages.ts'
import type { MemoryImage } from '../policy/data-image.ts'
import { PolicyInstance } from '../policy/host.ts'
import { type DataOperation, parsePatch } from '../policy/patch.ts'
import { misplaced } from '../policy/rule-paths.ts'

/** Memory that a change must leave to the evaluations of a worker: an eighth of its limit, at most this. */
const reserveBytes = 16 << 20

class DataKeeper {
  readonly #start: DataStart
  #instance: PolicyInstance

  constructor(start: DataStart) {
    this.#start = start
    this.#instance = this.#make(start.policy.data)
    for (const { operations } of start.patches) this.#instance.patch(operations)
  }

  answer(request: DataRequest): DataReport {
    try {
      switch (request.type) {
        case 'change':
          return {
            ok: true,
            operations: this.#change(request),
            image: undefined,
            bytes: this.#bytes,
          }
        case 'apply':
          for (const { operations } of request.patches) this.#instance.patch(operations)
          return { ok: true, operations: [], image: undefined, bytes: this.#bytes }
        case 'renew':
          return { ok: true, operations: [], image: this.#renew(), bytes: this.#bytes }
      }
    } catch (error) {
      return { ok: false, error: asGateError(error).data }
    }
  }

  get #bytes(): number {
    return this.#instance.dataBytes
  }

  #change({ text, format }: Extract<DataRequest, { type: 'change' }>): readonly DataOperation[] {
    const operations = parsePatch(text, format)
    for (const [i, operation] of operations.entries()) {
      const why = misplaced(operation, this.#start.policy.places)
      if (why !== undefined)
        throw new GateError(
          'ERR_DATA_PATCH',
          `the change of the data is refused: operation ${i + 1}: ${why}`,
        )
    }
    this.#instance.patch(operations)
    return operations
  }

  #renew(): MemoryImage {
    const fresh = this.#make(this.#instance.dataText())
    this.#instance = fresh
    return fresh.image()
  }

  #make(data: DataStart['policy']['data']): PolicyInstance {
    const { module, initialPages } = this.#start.policy
    const { maxMemoryBytes } = this.#start
    const limit = maxMemoryBytes - Math.min(reserveBytes, Math.floor(maxMemoryBytes / 8))
    return new PolicyInstance({ module, initialPages, data, maxMemoryBytes: limit })
  }
}

if (parentPort !== null) run(parentPort)

function run(port: NonNullable<typeof parentPort>): void {
  let keeper: DataKeeper | undefined
  let problem: GateError | undefined
  try {
    keeper = new DataKeeper(workerData as DataStart)
  } catch (error) {
    problem = asGateError(error)
  }
  port.on('message', (request: DataRequest) => {
    const report: DataReport = keeper?.answer(request) ?? { ok: false, error: problem!.data }
    port.postMessage(report)
  })
}
