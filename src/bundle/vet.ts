/**
 * Runs the vetting thread on a compiled bundle and ends the thread at its deadline.
 */
import { Worker } from 'node:worker_threads'
import { threadFile } from '../domain/thread-file.ts'
import { GateError } from '../errors.ts'
import type { VetReport, VetRequest } from '../messages.ts'

/** How long the thread may take to start; on a busy machine that takes seconds. */
const startMs = 20_000

type VetSuccess = Extract<VetReport, { ok: true }>

/**
 * Heap limit of the thread in MiB, added to the memory limit of the policy instance: V8 counts the instance's memory
 * too, and near the limit it would collect garbage at every new page.
 */
const heapMb = 256

/**
 * @returns What the bundle costs, and its data in the form in which workers load it. @throws GateError
 * ERR_BUNDLE_POLICY, ERR_BUNDLE_TRIAL
 */
export async function vet(request: VetRequest, timeoutMs: number): Promise<VetSuccess> {
  const worker = new Worker(threadFile('./vet-thread', import.meta.url), {
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
            hint: 'look for a rule that loops over too much data; policy.vet_timeout sets the limit',
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
        reject(
          new GateError('ERR_BUNDLE_TRIAL', 'the vetting thread crashed during the trial run', {
            cause: error,
          }),
        ),
      )
      worker.once('exit', () =>
        reject(new GateError('ERR_BUNDLE_TRIAL', 'the vetting thread exited without a result')),
      )
    })
    if (!report.ok) throw GateError.from(report.error)
    return report
  } finally {
    clearTimeout(timer)
    await worker.terminate()
  }
}
