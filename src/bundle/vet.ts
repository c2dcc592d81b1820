/** Runs the vetting thread over a compiled bundle and ends it at its deadline. */
import { Worker } from 'node:worker_threads'
import { GateError } from '../errors.ts'
import type { VetReport, VetRequest } from '../messages.ts'

/** What the thread may take to load itself, which on a busy machine is seconds. */
const startMs = 20_000

type Vetted = Extract<VetReport, { ok: true }>

/** What its JavaScript may take, beside the instance's memory: that counts too, and near the limit each page is a collection. */
const heapMb = 256

/** @returns what it cost, and its data as the workers take it. @throws GateError ERR_BUNDLE_POLICY, ERR_BUNDLE_TRIAL */
export async function vet(request: VetRequest, timeoutMs: number): Promise<Vetted> {
  const worker = new Worker(new URL('./vet-thread.ts', import.meta.url), {
    workerData: request,
    name: 'vetting',
    resourceLimits: {
      maxOldGenerationSizeMb: heapMb + Math.ceil(request.maxMemoryBytes / 2 ** 20),
    },
  })
  let timer: NodeJS.Timeout | undefined
  try {
    const report = await new Promise<VetReport>((resolve, reject) => {
      const late = (): void => {
        reject(
          new GateError('ERR_BUNDLE_TRIAL', `the trial run took longer than ${timeoutMs} ms`, {
            hint: 'look for a rule whose work grows without bound; policy.vet_timeout sets the limit',
          }),
        )
      }
      timer = setTimeout(late, startMs + timeoutMs)
      worker.on('message', (message: 'loaded' | VetReport) => {
        if (message !== 'loaded') return resolve(message)
        clearTimeout(timer)
        timer = setTimeout(late, timeoutMs)
      })
      worker.once('error', (error) =>
        reject(new GateError('ERR_BUNDLE_TRIAL', 'the trial run broke off', { cause: error })),
      )
      worker.once('exit', () =>
        reject(
          new GateError('ERR_BUNDLE_TRIAL', 'the thread of the trial run ended without an answer'),
        ),
      )
    })
    if (!report.ok) throw GateError.from(report.error)
    return report
  } finally {
    clearTimeout(timer)
    await worker.terminate()
  }
}
