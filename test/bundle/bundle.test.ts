/** Archives within limits, and the folder that is watched: the last good bundle serves whatever else appears there. */
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readArchive } from '../../src/bundle/archive.ts'
import { Bundles } from '../../src/bundle/watch.ts'
import { isImage } from '../../src/policy/data-image.ts'
import type { PolicyPackage } from '../../src/policy/package.ts'
import { compile, type Entry, packed, revised, unpacked } from '../harness/bundle.ts'
import { pause, until } from '../harness/wait.ts'

const limits = { maxBundleBytes: 1 << 20, maxUnpackedBytes: 2 << 20 }
const good = compile(
  'default decision := false\ndecision if input.principal.subject == data.who',
  undefined,
  { who: 'alice' },
)
const files = await unpacked(good)
const entries = (over: Record<string, string | Buffer | null> = {}): Entry[] => {
  const all: Record<string, string | Buffer | null> = { ...Object.fromEntries(files), ...over }
  return Object.entries(all).flatMap(([name, bytes]) =>
    bytes === null ? [] : [[`/${name}`, bytes] as const],
  )
}

t.test('a bundle that opa built is read; its digest stands for a missing revision', async (t) => {
  const content = await readArchive(good, limits)
  t.match(JSON.parse(Buffer.from(content.data).toString()), { who: 'alice' })
  t.match(content.revision, /^sha256:[0-9a-f]{12}$/, 'without a revision, its digest')
  t.equal((await readArchive(await revised(good, 'r7', {}), limits)).revision, 'r7')
})

t.test('roots of a manifest are read in a time that is linear in their length', async (t) => {
  const slashes = '/'.repeat(100_000)
  const manifest = JSON.stringify({ roots: [`x${slashes}y`, '/a/b//', slashes] })
  const bytes = await packed(entries({ '.manifest': manifest }))
  const began = performance.now()
  const { places } = await readArchive(bytes, limits)
  const tookMs = performance.now() - began
  t.strictSame(places.roots, [`x${slashes}y`, 'a/b', ''])
  t.ok(tookMs < 1000, `${Math.round(tookMs)} ms`)
})

t.test('an archive that is damaged, too large or not a bundle is refused', async (t) => {
  const wasm = files.get('policy.wasm')!
  const cases: [name: string, bytes: Buffer, code: string, message?: RegExp][] = [
    ['no archive', Buffer.from('hello'), 'ERR_BUNDLE_READ'],
    ['empty', Buffer.alloc(0), 'ERR_BUNDLE_READ'],
    ['cut off', good.subarray(0, good.length / 2), 'ERR_BUNDLE_READ'],
    ['too large', Buffer.alloc(limits.maxBundleBytes + 1), 'ERR_BUNDLE_LIMITS'],
    ['unpacking without end', await packed(entries({ zeros: Buffer.alloc(8 << 20) })), 'ERR_BUNDLE_LIMITS'],
    ['a link', await packed([...entries(), [{ name: 'x', type: 'symlink', linkname: '/etc/passwd' }, '']]), 'ERR_BUNDLE_READ', /symlink/],
    ['a hard link', await packed([...entries(), [{ name: 'x', type: 'link', linkname: 'policy.wasm' }, '']]), 'ERR_BUNDLE_READ', /link/],
    ['a way out', await packed([...entries(), ['../../x', '']]), 'ERR_BUNDLE_READ', /leaves/],
    ['a name twice', await packed([...entries(), ['/policy.wasm', wasm]]), 'ERR_BUNDLE_READ', /twice/],
    ['a name twice, spelt otherwise', await packed([...entries(), ['./policy.wasm', wasm]]), 'ERR_BUNDLE_READ', /twice/],
    ['a delta bundle', await packed([['/.manifest', '{}'], ['/patch.json', '{"data":[]}']]), 'ERR_BUNDLE_READ', /delta bundle/],
    ['no module', await packed(entries({ 'policy.wasm': null })), 'ERR_BUNDLE_POLICY', /no \/policy\.wasm/],
    ['data elsewhere', await packed(entries({ 'roles/data.json': '{}' })), 'ERR_BUNDLE_READ', /roles\/data\.json/],
    ['a manifest that is no object', await packed(entries({ '.manifest': '7' })), 'ERR_BUNDLE_READ', /manifest/],
  ] // biome-ignore format: a table
  for (const [name, bytes, code, message = /./] of cases) {
    await t.rejects(readArchive(bytes, limits), { code, message }, name)
  }
  const many = Array.from({ length: 10_001 }, (_, i) => [`f${i}`, ''] as const)
  await t.rejects(readArchive(await packed(many), { ...limits, maxUnpackedBytes: 1 << 28 }), {
    code: 'ERR_BUNDLE_READ',
    message: /more than/,
  })
})

t.test('of the bundles in the folder good ones are activated, bad ones are reported', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'dropgate-bundles-'))
  const activated: PolicyPackage[] = []
  let refused = 0
  const logged: string[] = []
  const bundles = new Bundles({
    directory,
    decisions: ['gate/authz/decision'],
    limits: {
      ...limits,
      maxMemoryBytes: 64 << 20,
      evaluationMs: 1000,
      vetTimeoutMs: 3000,
      settleMs: 20,
    },
    onActivate: (policy) => activated.push(policy),
    onRefused: () => refused++,
    log: { info: (_fields, message) => logged.push(message), warn: () => {}, error: () => {} },
  })
  t.teardown(async () => {
    await bundles.close()
    rmSync(directory, { recursive: true })
  })
  const path = join(directory, 'gate.tar.gz')
  const put = (bytes: Buffer): void => {
    writeFileSync(join(directory, '.new'), bytes)
    renameSync(join(directory, '.new'), path)
  }
  await bundles.open()
  t.match(bundles.status(), {
    code: 'ERR_BUNDLE_READ',
    message: /no \*\.tar\.gz/,
    active_revision: null,
  })
  const one = await revised(good, 'one', { who: 'alice' })
  put(one)
  await until('one', () => bundles.status().active_revision === 'one')
  t.match(bundles.status(), { name: 'gate', generation: 1, code: null })
  const [{ data } = {}] = activated
  t.ok(isImage(data!) && data.bytes.buffer instanceof SharedArrayBuffer, 'read once')

  const bad: [bytes: Buffer, code: string][] = [
    [Buffer.from('no bundle'), 'ERR_BUNDLE_READ'],
    [await packed(entries({ 'policy.wasm': 'no module' })), 'ERR_BUNDLE_POLICY'],
    [compile('decision := true'), 'ERR_BUNDLE_TRIAL'],
    [compile('decision := 7'), 'ERR_BUNDLE_TRIAL'],
    [await packed(entries({ 'data.json': '{' })), 'ERR_BUNDLE_READ'],
    [await packed(entries({ 'data.json': '[]' })), 'ERR_BUNDLE_READ'],
    [Buffer.alloc(limits.maxBundleBytes + 1), 'ERR_BUNDLE_LIMITS'],
    [await packed(entries({ 'data.json': `{"x":"${'y'.repeat(3 << 20)}"}` })), 'ERR_BUNDLE_LIMITS'],
  ]
  for (const [bytes, code] of bad) {
    const before = refused
    put(bytes)
    await until('refused', () => refused > before)
    t.equal(bundles.status().code, code)
    t.match(bundles.status(), { active_revision: 'one', generation: 1 })
    t.ok(bundles.status().message)
  }
  t.equal(activated.length, 1)
  t.ok(refused >= bad.length)

  put(one)
  await until('the good one is back', () => bundles.status().code === null)
  t.equal(activated.length, 1, 'the same bytes are no change')
  t.same(logged, ['policy activated', 'the bundles folder contains the active bundle again'])

  // Written in place, slowly: what is half there is not taken, what is whole in the end is.
  const two = await revised(good, 'two', { who: 'bob' })
  for (let at = 0; at < two.length; at += Math.ceil(two.length / 5)) {
    writeFileSync(path, two.subarray(at, at + Math.ceil(two.length / 5)), {
      flag: at === 0 ? 'w' : 'a',
    })
    await pause(60)
  }
  await until('two', () => bundles.status().active_revision === 'two')
  t.match(bundles.status(), { code: null, generation: 2 })

  writeFileSync(join(directory, 'other.tar.gz'), good)
  await until('two bundles', () => bundles.status().code === 'ERR_BUNDLE_READ')
  t.match(bundles.status().message, /more than one/)
  rmSync(join(directory, 'other.tar.gz'))
  await until('one bundle again', () => bundles.status().code === null)
  rmSync(path)
  await until('none', () => bundles.status().code === 'ERR_BUNDLE_READ')
  t.equal(bundles.status().active_revision, 'two', 'the last good one serves')
})
