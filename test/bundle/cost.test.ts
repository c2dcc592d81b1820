/** What a bundle costs and what its building did to it is measured, found and said; the bundle is served all the same. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import { findOpa, runOpa } from '../../src/bundle/opa.ts'
import { Bundles } from '../../src/bundle/watch.ts'
import { compile } from '../harness/bundle.ts'

const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }
const folder = mkdtempSync(join(tmpdir(), 'dropgate-cost-'))
t.teardown(() => rmSync(folder, { recursive: true }))

const rego =
  'package gate.authz\n\ndefault decision := false\n\ndecision if {\n\tsome role in input.principal.claims.roles\n\tinput.attributes.request.http.method in data.gate.roles[role].methods\n}\n'
const roles = Object.fromEntries(
  Array.from({ length: 100 }, (_, i) => [`role-${i}`, { methods: ['GET', `M${i}`] }]),
)

function built(name: string, flags: readonly string[], roots?: readonly string[]): Buffer {
  const home = join(folder, name)
  mkdirSync(home)
  writeFileSync(join(home, 'policy.rego'), rego)
  writeFileSync(join(home, 'data.json'), JSON.stringify({ gate: { roles } }))
  if (roots !== undefined) writeFileSync(join(home, '.manifest'), JSON.stringify({ roots }))
  const out = join(folder, `${name}.tar.gz`)
  const args = ['build', '-t', 'wasm', '-b', '-e', 'gate/authz/decision', '-o', out, ...flags, home]
  runOpa(findOpa(process.cwd()), args, folder)
  return readFileSync(out)
}

t.test('what the optimiser did is found in the bundle', async (t) => {
  const hazards = async (bytes: Buffer) => (await readArchive(bytes, limits)).hazards
  t.same(await hazards(built('plain', [])), [])
  t.match(await hazards(built('blind', ['-O1'])), [
    /without roots/,
    /copied the data into the code/,
  ])
  t.match(await hazards(built('rooted', ['-O1'], ['gate'])), [/copied the data into the code/])
})

t.test('the trial run says what a decision costs; large data is warned of', async (t) => {
  const directory = join(folder, 'bundles')
  mkdirSync(directory)
  const warned: string[] = []
  const large = Object.fromEntries(
    Array.from({ length: 140 }, (_, i) => [`subject-${i}`, 'x'.repeat(1 << 20)]),
  )
  const policy = 'default decision := false\ndecision if data.large[input.principal.subject]'
  writeFileSync(join(directory, 'gate.tar.gz'), compile(policy, undefined, { large }))
  const bundles = new Bundles({
    directory,
    decisions: ['gate/authz/decision'],
    limits: {
      ...limits,
      maxMemoryBytes: 512 << 20,
      evaluationMs: 1000,
      vetTimeoutMs: 30_000,
      settleMs: 20,
    },
    onActivate: () => {},
    onRefused: () => {},
    log: { info: () => {}, warn: (_fields, message) => warned.push(message), error: () => {} },
  })
  await bundles.open()
  t.teardown(() => bundles.close())
  const { code, cost, warnings } = bundles.status()
  t.equal(code, null)
  t.ok(cost!.load_ms > 0, `${cost!.load_ms} ms`)
  t.ok(cost!.memory_bytes > 128 << 20)
  t.match(cost!.decisions, [{ decision: 'gate/authz/decision', evaluation_us: Number }])
  t.ok(cost!.decisions[0]!.evaluation_us > 0)
  t.match(warnings, [/MiB of memory in every worker/])
  t.same(warned, warnings)
})
