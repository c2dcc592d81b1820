/**
 * A case's modules compiled by `opa build`, kept by what goes in. A query that is not `data.PATH = VARIABLE` becomes
 * a rule of a wrapping module, since a compiled module answers entrypoints only.
 */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { readArchive } from '../../src/bundle/archive.ts'
import { findOpa, opaVersion } from '../../src/bundle/opa.ts'
import { type PreparedModule, prepareModule } from '../../src/policy/module.ts'
import type { Case } from './cases.ts'

const run = promisify(execFile)
const kept = join('.tools', 'conformance')
const opa = findOpa(process.cwd())

export interface Compiled extends PreparedModule {
  readonly entrypoint: string
  /** The entrypoint's value is the set of bindings, not the value of one variable. */
  readonly wrapped: boolean
}

/** @throws with what `opa build` said. */
export async function compiled(one: Case): Promise<Compiled> {
  const { entrypoint, wrapped, ...plan } = planned(one)
  // OPA's test binary has a builtin that sleeps; here some work makes time go by.
  const modules = plan.modules.map((text) =>
    text.replace(/test\.sleep\("[^"]*"\)/g, 'count(numbers.range(1, 20000)) > 0'),
  )
  const flags = one.version === 'v0' ? ['--v0-compatible'] : []
  const hash = createHash('sha256')
  for (const text of [opaVersion, entrypoint, ...flags, ...modules])
    hash.update(`${text.length}\0${text}`)
  const bundle = join(kept, `${hash.digest('hex').slice(0, 32)}.tar.gz`)
  if (!existsSync(bundle)) await build(modules, entrypoint, flags, bundle)
  const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }
  const { wasm } = await readArchive(readFileSync(bundle), limits)
  return { ...prepareModule(wasm), entrypoint, wrapped }
}

function planned({ query, modules, wantResult, version }: Case): {
  entrypoint: string
  modules: readonly string[]
  wrapped: boolean
} {
  const plain = /^data((?:\.[a-zA-Z_][a-zA-Z0-9_]*)+) = (?!input|data)[a-z]+$/.exec(query)
  if (plain !== null && modules.length > 0) {
    return { entrypoint: plain[1]!.slice(1).replaceAll('.', '/'), modules, wrapped: false }
  }
  const names = [...new Set(wantResult?.flatMap((row) => Array.from(row, ([name]) => name)))]
  const bindings = names.map((name) => `"${name}": ${name}`).join(', ')
  const head = version === 'v0' ? `bindings[{${bindings}}]` : `bindings contains {${bindings}} if`
  const wrapper = `package conformance.wrapper\n\n${head} {\n${query}\n}\n`
  return {
    entrypoint: 'conformance/wrapper/bindings',
    modules: [...modules, wrapper],
    wrapped: true,
  }
}

async function build(
  modules: readonly string[],
  entrypoint: string,
  flags: readonly string[],
  out: string,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-case-'))
  try {
    const names = modules.map((text, i) => {
      writeFileSync(join(folder, `module-${i}.rego`), text)
      return `module-${i}.rego`
    })
    const args = ['build', '-t', 'wasm', ...flags, '-e', entrypoint, '-o', 'out.tar.gz', ...names]
    await run(opa, args, { cwd: folder }).catch((error: { stdout: string; stderr: string }) => {
      throw new Error(`opa build: ${error.stdout}${error.stderr}`)
    })
    mkdirSync(kept, { recursive: true })
    // Beside, then in one step: another run may read at any moment.
    const beside = `${out}.${process.pid}`
    writeFileSync(beside, readFileSync(join(folder, 'out.tar.gz')))
    renameSync(beside, out)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
