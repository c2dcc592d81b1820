/** Runs the vetting thread over a compiled bundle and ends it at its deadline. */
import { Worker } from 'node:worker_threads'
import { type Code, GateError } from '../errors.ts'
import type { BundleCost, VetReport, VetRequest } from '../messages.ts'

/** What the thread may take to load itself, which on a busy machine is seconds. */
const startMs = 20_000

/** @returns what it cost. @throws GateError ERR_BUNDLE_POLICY, ERR_BUNDLE_TRIAL */
export async function vet(request: VetRequest, timeoutMs: number): Promise<BundleCost> {
  const worker = new Worker(new URL('./vetting.ts', import.meta.url), {
    workerData: request,
    name: 'vetting',
    resourceLimits: { maxOldGenerationSizeMb: 256 },
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
        reject(new GateError('ERR_BUNDLE_TRIAL', 'the trial run ended without a word')),
      )
    })
    if (!report.ok) {
      throw new GateError(
        report.code as Code,
        report.message,
        report.hint === undefined ? {} : { hint: report.hint },
      )
    }
    return report.cost
  } finally {
    clearTimeout(timer)
    await worker.terminate()
  }
}
