/**
 * Builds a bundle for `make bundle`: check, format, test, build. The same sources give the same bytes; the revision
 * is a digest of the sources.
 */
import { createHash } from 'node:crypto'
import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { makeFolder } from '../domain/folder.ts'
import { findOpa, runOpa } from './opa.ts'
import { schemaOf, withoutTests } from './policy-tests.ts'

export interface BuildOptions {
  /** Folder of Rego sources and data. */
  readonly policies: string
  /**
   * Path of the bundle to write, `*.tar.gz`. The file is replaced in one step, so that a watching gate never reads
   * half of it.
   */
  readonly out: string
  readonly entrypoints: readonly string[]
  /** Folder of dropgate itself, with its schema and tools; `policies` and `out` are not relative to it. */
  readonly root: string
}

export interface BuildResult {
  readonly out: string
  readonly revision: string
  /** Sources that this build reformatted. */
  readonly formatted: readonly string[]
  /** Last line that `opa test` printed. */
  readonly tests: string
}

/** @throws GateError ERR_OPA with the message of opa */
export function buildBundle(options: BuildOptions): BuildResult {
  const { policies, out, entrypoints, root } = options
  const opa = findOpa(root)
  runOpa(opa, ['check', '--strict', '--bundle', '--schema', schemaOf(root), policies])
  const listed = runOpa(opa, ['fmt', '--list', policies]).trim()
  const formatted = listed === '' ? [] : listed.split('\n')
  if (formatted.length > 0) runOpa(opa, ['fmt', '--write', policies])
  const tests = runOpa(opa, ['test', '--bundle', policies]).trim()
  if (tests === '') throw withoutTests(policies)
  const revision = revisionOf(policies)
  const work = mkdtempSync(join(tmpdir(), 'dropgate-build-'))
  try {
    // opa builds from a copy with relative names, so that no path of this machine gets into the bundle.
    cpSync(policies, join(work, 'policies'), { recursive: true })
    const file = basename(out)
    runOpa(
      opa,
      [
        'build',
        '--target=wasm',
        '--bundle',
        ...entrypoints.flatMap((entrypoint) => ['--entrypoint', entrypoint]),
        '--ignore=*_test.rego',
        `--revision=${revision}`,
        `--output=${join(work, file)}`,
        'policies',
      ],
      work,
    )
    makeFolder(dirname(out))
    const beside = join(dirname(out), `.${file}.new`)
    writeFileSync(beside, readFileSync(join(work, file)))
    renameSync(beside, out)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  return { out, revision, formatted, tests: tests.split('\n').at(-1) ?? '' }
}

/** Returns twelve hex digits of a digest over the names and bytes of all files that go into the bundle. */
function revisionOf(policies: string): string {
  const digest = createHash('sha256')
  const files = readdirSync(policies, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.endsWith('_test.rego'))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
  for (const file of files) {
    const bytes = readFileSync(file)
    digest.update(`${relative(policies, file)}\0${bytes.length}\0`).update(bytes)
  }
  return digest.digest('hex').slice(0, 12)
}
