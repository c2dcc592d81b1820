/**
 * Unpacks a bundle: a large one in a thread of its own, since the control thread must be free every few milliseconds, and
 * a bundle may unpack to hundreds of megabytes. For a small one the start of a thread would take longer than the work.
 */
import { Worker } from 'node:worker_threads'
import { threadFile } from '../domain/thread-file.ts'
import { asGateError, GateError } from '../errors.ts'
import type { UnpackReport, UnpackRequest } from '../messages.ts'
import { type ArchiveLimits, type BundleContent, readArchive } from './archive.ts'

/** Up to this size, packed and unpacked, a bundle is small. */
const smallBytes = 128 << 10
const smallUnpackedBytes = 2 << 20

/**
 * @param bytes Given over to the thread: the caller must not use them any more.
 * @throws GateError ERR_BUNDLE_READ, ERR_BUNDLE_LIMITS, ERR_BUNDLE_POLICY, as `readArchive`
 */
export async function unpack(bytes: Buffer, limits: ArchiveLimits): Promise<BundleContent> {
  if (bytes.length > smallBytes) return await unpackApart(bytes, limits)
  const maxUnpackedBytes = Math.min(limits.maxUnpackedBytes, smallUnpackedBytes)
  try {
    return await readArchive(bytes, { ...limits, maxUnpackedBytes })
  } catch (error) {
    const { code } = asGateError(error)
    if (code !== 'ERR_BUNDLE_LIMITS' || maxUnpackedBytes === limits.maxUnpackedBytes) throw error
    return await unpackApart(bytes, limits)
  }
}

async function unpackApart(bytes: Buffer, limits: ArchiveLimits): Promise<BundleContent> {
  const request: UnpackRequest = { bytes, limits }
  const worker = new Worker(threadFile('./unpack-thread', import.meta.url), {
    workerData: request,
    // A piece of a larger buffer is copied.
    transferList: bytes.length === bytes.buffer.byteLength ? [bytes.buffer as ArrayBuffer] : [],
    name: 'unpacking',
  })
  try {
    const report = await new Promise<UnpackReport>((resolve, reject) => {
      const gone = (cause?: unknown): void =>
        reject(
          new GateError('ERR_BUNDLE_READ', 'the thread that unpacks the bundle ended', { cause }),
        )
      worker.once('message', resolve)
      worker.once('error', gone)
      worker.once('exit', () => gone())
    })
    if (!report.ok) throw GateError.from(report.error)
    return { ...report.content, wasm: Buffer.from(report.content.wasm.buffer) }
  } finally {
    await worker.terminate()
  }
}
