/**
 * Runs the vetting thread on a compiled bundle and ends the thread at its deadline.
 */
import { Worker } from 'node:worker_threads'
import { threadFile } from '../domain/thread-file.ts'
import { GateError } from '../errors.ts'
import type { VetReport, VetRequest, VetStep } from '../messages.ts'
import { isImage, mib } from '../policy/data-image.ts'

/** How long the thread may take to start; on a busy machine that takes seconds. */
const startMs = 20_000

type VetSuccess = Extract<VetReport, { ok: true }>

/**
 * Heap limit of the thread in MiB, added to the memory limit of the policy instance: V8 counts the instance's memory
 * too, and near the limit it would collect garbage at every new page.
 */
const heapMb = 256

/**
 * Deadline for reading the data. It grows with the data and is no option: it stops data that is made to be slow, and
 * must not stop data that is large on a machine that is busy. Reading takes about 0.05 s for each MiB.
 */
function dataDeadlineMs(bytes: number): number {
  return 10_000 + Math.ceil(bytes / 2 ** 20) * 1000
}

/**
 * @returns What the bundle costs, and its data in the form in which workers load it. @throws GateError
 * ERR_BUNDLE_POLICY, ERR_BUNDLE_TRIAL
 */
export async function vet(
  request: VetRequest,
  timeoutMs: number,
  dataMs = dataDeadlineMs(bytesOf(request.data)),
): Promise<VetSuccess> {
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
      const begin = (step: VetStep, limitMs: number): void => {
        clearTimeout(timer)
        timer = setTimeout(() => reject(late(step, request, limitMs)), limitMs)
      }
      begin('data', startMs + dataMs)
      worker.on('message', (message: VetStep | VetReport) => {
        if (message === 'data') begin('data', dataMs)
        else if (message === 'trial') begin('trial', timeoutMs)
        else resolve(message)
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

function bytesOf(data: VetRequest['data']): number {
  return isImage(data) ? data.bytes.length : data.length
}

function late(step: VetStep, { data }: VetRequest, limitMs: number): GateError {
  if (step === 'data') {
    return new GateError(
      'ERR_BUNDLE_LIMITS',
      `reading its data (${mib(bytesOf(data))}) took longer than ${limitMs} ms`,
      { hint: 'the machine is overloaded, or the data is made to be slow to read' },
    )
  }
  return new GateError('ERR_BUNDLE_TRIAL', `the trial run took longer than ${limitMs} ms`, {
    hint: 'look for a rule that loops over too much data; policy.vet_timeout sets the limit',
  })
}
