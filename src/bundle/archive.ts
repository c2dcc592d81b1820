/**
 * Room: bundle. In: files that appear in the watched folder. Out: a policy package that has passed every check. Never
 * does: replace a good policy by a bad one.
 *
 * This file unpacks an OPA bundle, which is a gzipped tar. It limits the bytes of the archive, the unpacked bytes and
 * the number of entries, and refuses links, names with `..` and duplicate names. Files that the gate does not need
 * are ignored.
 */
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { extract } from 'tar-stream'
import { GateError } from '../errors.ts'
import { type Places, rulePathsOf } from '../policy/rule-paths.ts'
import { findHazards } from './hazards.ts'

export interface ArchiveLimits {
  readonly maxBundleBytes: number
  readonly maxUnpackedBytes: number
}

export interface BundleContent {
  /** SHA-256 of the archive's bytes, hex. */
  readonly digest: string
  readonly revision: string
  readonly wasm: Buffer
  /** The `data` document as the bundle has it, not yet looked at; `{}` when the bundle has no data. */
  readonly data: Uint8Array
  /** Where the data may be changed. */
  readonly places: Places
  /** Warnings about how the bundle was built; see hazards.ts. */
  readonly hazards: readonly string[]
}

const maxEntries = 10_000

/** @throws GateError ERR_BUNDLE_READ, ERR_BUNDLE_LIMITS, ERR_BUNDLE_POLICY */
export async function readArchive(bytes: Buffer, limits: ArchiveLimits): Promise<BundleContent> {
  if (bytes.length > limits.maxBundleBytes) {
    throw new GateError(
      'ERR_BUNDLE_LIMITS',
      `the bundle file is too large: ${bytes.length} bytes`,
      {
        hint: 'raise policy.max_bundle if the bundle is meant to be this large',
      },
    )
  }
  const files = await unpack(bytes, limits.maxUnpackedBytes)
  const digest = createHash('sha256').update(bytes).digest('hex')
  const manifest = readJson(files.get('.manifest'), '.manifest')
  const wasm = files.get('policy.wasm')
  if (files.has('patch.json')) {
    throw new GateError('ERR_BUNDLE_READ', 'it is a delta bundle, which has no policy of its own', {
      hint: 'keep the whole bundle in the folder: a gate that starts again would have no other',
    })
  }
  if (wasm === undefined) {
    throw new GateError('ERR_BUNDLE_POLICY', 'the bundle contains no /policy.wasm', {
      hint: 'build it with `dropgate build` or `opa build -t wasm -e gate/authz/decision`',
    })
  }
  const elsewhere = [...files.keys()].find((name) =>
    /\/data\.(json|ya?ml)$|^data\.ya?ml$/.test(name),
  )
  if (elsewhere !== undefined) {
    throw new GateError(
      'ERR_BUNDLE_READ',
      `the bundle has data in ${elsewhere}, but the gate reads only /data.json`,
      {
        hint: 'build the bundle with `opa build`, which merges all data into /data.json',
      },
    )
  }
  const data = files.get('data.json')
  const { revision, roots } = manifest
  const optimized = [...files.keys()].some((name) => name.startsWith('optimized/'))
  return {
    digest,
    revision:
      typeof revision === 'string' && revision !== ''
        ? revision.slice(0, 200)
        : `sha256:${digest.slice(0, 12)}`,
    wasm,
    data: data ?? Buffer.from('{}'),
    places: { roots: rootsOf(roots), rules: rulePathsOf(wasm) },
    hazards: findHazards({ optimized, roots, wasm, data: () => readJson(data, 'data.json') }),
  }
}

/** OPA's default is the whole of `data`. */
function rootsOf(roots: unknown): string[] {
  if (!Array.isArray(roots)) return ['']
  return roots.map((root) => withoutSlashes(String(root)))
}

/** Without those at both ends. Not by a pattern: for `x////…/x` its time would grow with the square of the length. */
function withoutSlashes(text: string): string {
  let [from, to] = [0, text.length]
  while (from < to && text[from] === '/') from++
  while (to > from && text[to - 1] === '/') to--
  return text.slice(from, to)
}

const wanted =
  /^(?:optimized\/.*|\.manifest|policy\.wasm|patch\.json|(?:.*\/)?data\.(?:json|ya?ml))$/

async function unpack(bytes: Buffer, maxUnpackedBytes: number): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>()
  const seen = new Set<string>()
  let unpacked = 0
  const counted = async function* (source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of source) {
      unpacked += chunk.length
      if (unpacked > maxUnpackedBytes) {
        throw new GateError(
          'ERR_BUNDLE_LIMITS',
          `the bundle unpacks to more than ${maxUnpackedBytes} bytes`,
          {
            hint: 'raise policy.max_unpacked if the bundle is meant to be this large',
          },
        )
      }
      yield chunk
    }
  }
  const tar = extract()
  tar.on('entry', (header, stream, next) => {
    const name = header.name.replace(/^(?:\.?\/)+/, '')
    const problem =
      header.type !== 'file' && header.type !== 'directory'
        ? `it contains an entry of type ${header.type}`
        : name.split('/').includes('..')
          ? 'it contains a name that leaves the archive ("..")'
          : header.type === 'file' && seen.has(name)
            ? `it contains ${JSON.stringify(name)} twice`
            : seen.size >= maxEntries
              ? `it contains more than ${maxEntries} files`
              : undefined
    if (problem !== undefined) {
      // The stream of the refused entry fails too. Without a listener its 'error' event would end the process.
      stream.on('error', () => {})
      next(new GateError('ERR_BUNDLE_READ', `the bundle is refused: ${problem}`))
      return
    }
    if (header.type === 'file') seen.add(name)
    const chunks: Buffer[] = []
    const keep = header.type === 'file' && wanted.test(name)
    stream.on('data', (chunk) => {
      if (keep) chunks.push(chunk as Buffer)
    })
    stream.on('end', () => {
      if (keep) files.set(name, Buffer.concat(chunks))
      next()
    })
    stream.on('error', next)
  })
  try {
    await pipeline(Readable.from([bytes]), createGunzip(), counted, tar)
  } catch (error) {
    if (error instanceof GateError) throw error
    throw new GateError('ERR_BUNDLE_READ', 'the bundle is not a complete gzipped tar', {
      cause: error,
    })
  }
  return files
}

function readJson(bytes: Buffer | undefined, name: string): Record<string, unknown> {
  if (bytes === undefined) return {}
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'))
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      return value as Record<string, unknown>
    }
  } catch {
    // Fall through: text that is not JSON and JSON that is not an object get the same error.
  }
  throw new GateError('ERR_BUNDLE_READ', `/${name} in the bundle is not a JSON object`)
}
