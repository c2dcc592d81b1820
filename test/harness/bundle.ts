/** Bundles made on the spot: compiled by `opa`, packed by hand where they must be wrong. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import { extract, type Header, pack } from 'tar-stream'
import { findOpa, runOpa } from '../../src/bundle/opa.ts'

const opa = findOpa(process.cwd())

/** A bundle of one module, `package gate.authz` unless it says otherwise. */
export function compile(
  rego: string,
  entrypoints = ['gate/authz/decision'],
  data = {},
  flags: readonly string[] = [],
): Buffer {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-rego-'))
  try {
    const text = /^package /m.test(rego) ? rego : `package gate.authz\n\n${rego}`
    writeFileSync(join(folder, 'policy.rego'), text)
    writeFileSync(join(folder, 'data.json'), JSON.stringify(data))
    const named = entrypoints.flatMap((entrypoint) => ['-e', entrypoint])
    runOpa(opa, ['build', '-t', 'wasm', ...flags, ...named, '-o', 'out.tar.gz', '-b', '.'], folder)
    return readFileSync(join(folder, 'out.tar.gz'))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Data of a search that takes minutes. It allocates nothing, so no memory cap ends it. */
export const endless = { text: 'a'.repeat(1_000_000), part: `${'a'.repeat(500_000)}b` }

/** A policy that passes its trial, and never ends for a request with `x-run: away`. */
export function compileRunaway(): Buffer {
  const rego = `
    default decision := false
    decision if { input.attributes; not away }
    away if { input.attributes.request.http.headers["x-run"] == "away"; contains(data.text, data.part) }`
  return compile(rego, undefined, endless)
}

export type Entry = readonly [header: string | Partial<Header>, content: string | Buffer]

/** A gzipped tar of exactly these entries. */
export async function packed(entries: readonly Entry[]): Promise<Buffer> {
  const tar = pack()
  for (const [header, content] of entries) {
    const named = typeof header === 'string' ? { name: header } : header
    tar.entry(named as Header, content as Buffer)
  }
  tar.finalize()
  const chunks: Buffer[] = []
  for await (const chunk of tar) chunks.push(chunk as Buffer)
  return gzipSync(Buffer.concat(chunks), { level: 1 })
}

export async function unpacked(bundle: Buffer): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>()
  const tar = extract()
  tar.end(gunzipSync(bundle))
  for await (const entry of tar) {
    const chunks: Buffer[] = []
    for await (const chunk of entry) chunks.push(chunk as Buffer)
    files.set(entry.header.name.replace(/^\//, ''), Buffer.concat(chunks))
  }
  return files
}

/** The same policy under another revision, with other data. */
export async function revised(bundle: Buffer, revision: string, data: object): Promise<Buffer> {
  const files = await unpacked(bundle)
  const manifest = { ...JSON.parse(files.get('.manifest')!.toString()), revision }
  files.set('.manifest', Buffer.from(JSON.stringify(manifest)))
  files.set('data.json', Buffer.from(JSON.stringify(data)))
  return await packed([...files].map(([name, bytes]) => [`/${name}`, bytes]))
}
