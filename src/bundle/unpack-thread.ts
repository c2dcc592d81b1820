/** The thread in which unpack.ts unpacks a bundle. It sends one report. */
import { parentPort, workerData } from 'node:worker_threads'
import { asGateError } from '../errors.ts'
import type { UnpackReport, UnpackRequest } from '../messages.ts'
import { readArchive } from './archive.ts'

if (parentPort !== null) parentPort.postMessage(await report(workerData as UnpackRequest))

async function report({ bytes, limits }: UnpackRequest): Promise<UnpackReport> {
  try {
    const content = await readArchive(Buffer.from(bytes), limits)
    // Shared memory crosses threads without a copy.
    return {
      ok: true,
      content: { ...content, wasm: shared(content.wasm), data: shared(content.data) },
    }
  } catch (error) {
    return { ok: false, error: asGateError(error, 'ERR_BUNDLE_READ').data }
  }
}

function shared(bytes: Uint8Array): Uint8Array<SharedArrayBuffer> {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length))
  copy.set(bytes)
  return copy
}
