/**
 * Files as Kubernetes mounts them from a ConfigMap: links that lead through `..data`, which is replaced as a whole. A bundle
 * in one is noticed when it changes; the configuration: test/walks/reload.test.ts.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { BundleStatus } from '../../src/bundle/watch.ts'
import { revised } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { until } from '../harness/wait.ts'

/** What the kubelet does. */
function mount(folder: string, version: number, name: string, content: Buffer): void {
  const data = join(folder, '..data')
  mkdirSync(join(folder, `..v${version}`))
  writeFileSync(join(folder, `..v${version}`, name), content)
  symlinkSync(`..v${version}`, `${data}_tmp`)
  renameSync(`${data}_tmp`, data)
  if (version === 1) symlinkSync(`..data/${name}`, join(folder, name))
  else rmSync(join(folder, `..v${version - 1}`), { recursive: true })
}

t.test('a bundle in a ConfigMap is active, and so is each that replaces it', async (t) => {
  const starter = readFileSync('bundles/gate.tar.gz')
  const gate = await TestGate.start({
    bundle: null,
    prepare: (folder) => mount(join(folder, 'bundles'), 1, 'gate.tar.gz', starter),
  })
  t.teardown(() => gate.stop())
  const active = (): string | null =>
    (gate.gate.status() as { policy: BundleStatus }).policy.active_revision
  for (const version of [2, 3]) {
    const revision = `revision-${version}`
    mount(gate.bundles, version, 'gate.tar.gz', await revised(starter, revision, {}))
    await until(
      () => `${revision}, and not ${active()}`,
      () => active() === revision,
    )
  }
  t.equal((await gate.ask('/public/a')).status, 200)
})
