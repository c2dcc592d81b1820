/**
 * Renders deploy/helm/dropgate by Helm, which is built once, and looks at the result as test/deploy does at the manifests: by
 * the schemas of Kubernetes, and by what the objects say of each other. Its pods are those of deploy/kubernetes.
 */
import { deepEqual, equal, match } from 'node:assert/strict'
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { loadConfig } from '../../src/config/load.ts'
import {
  type Manifest,
  manifestsIn,
  relationProblems,
  schemaProblems,
} from '../../test/deploy/manifests.ts'
import { onPath } from '../smoke.ts'
import { run } from '../stage.ts'
import { builtByGo } from './tools.ts'

const root = join(import.meta.dirname, '../..')
const chart = join(root, 'deploy/helm/dropgate')
const version = 'v3.22.0'
const drainSeconds = 30
/** Values that turn everything on. */
const all = [
  ...['networkPolicy.enabled=true', 'serviceMonitor.enabled=true', 'replicas=3'],
  ...['nodeSelector.disk=ssd', 'podAnnotations.note=a', 'imagePullSecrets[0].name=registry'],
  'tolerations[0].key=gate',
].flatMap((each) => ['--set', each])
/** Values that the chart refuses, each with the path that its answer names. */
const refused = [
  ['replicas=0', /replicas/],
  ['replica=2', /replica/],
  ['image.tag=latest', /tag/],
  ['config.admin.host=127.0.0.1', /host/],
  ['database.secret=', /secret/],
] as const

export function tryChart(say: (text: string) => void): void {
  const helm = onPath('helm') ?? builtByGo('the chart', `helm.sh/helm/v3/cmd/helm@${version}`, say)
  if (helm === undefined) return
  run(helm, ['lint', '--strict', chart], root)
  const render = (values: readonly string[]): Manifest[] =>
    manifestsIn(run(helm, ['template', 'gate', chart, '--kube-version=1.37.0', ...values], root))
  const rendered = render([])
  equal(rendered.length, 8)
  equal(render(all).length, 10)
  equal(render(['--set', 'migrate.enabled=false,podDisruptionBudget.enabled=false']).length, 5)
  for (const manifests of [rendered, render(all)]) {
    deepEqual(manifests.flatMap(schemaProblems), [])
    deepEqual(relationProblems(manifests, drainSeconds), [])
  }
  for (const [value, named] of refused) {
    const done: SpawnSyncReturns<string> = spawnSync(helm, ['lint', chart, '--set', value], {
      encoding: 'utf8',
    })
    equal(done.status, 1, value)
    match(done.stdout, named)
  }
  checkConfigs(rendered)
  const plain = manifestsIn(readFileSync(join(root, 'deploy/kubernetes/deployment.yaml'), 'utf8'))
  deepEqual(podOf(rendered), podOf(plain), 'the pods of deploy/kubernetes')
  say(
    `deploy/helm: rendered by Helm ${version}, checked against the schemas of Kubernetes 1.37; never applied to a cluster`,
  )
}

/** What differs between the two on purpose is taken out: names, labels that Helm adds, the image. */
function podOf(manifests: readonly Manifest[]): unknown {
  const { spec } = manifests.find(({ kind }) => kind === 'Deployment')!
  const text = JSON.stringify(spec!.template!.spec, (key, value) =>
    key === 'image' || key === 'imagePullPolicy' || key === 'app.kubernetes.io/instance'
      ? undefined
      : value,
  )
  return JSON.parse(text.replaceAll('gate-dropgate', 'dropgate'))
}

function checkConfigs(rendered: readonly Manifest[]): void {
  const configs = rendered.flatMap(({ data }) => data?.['dropgate.yaml'] ?? [])
  equal(configs.length, 2, 'of the gates and of the migration')
  equal(configs[0], configs[1])
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-chart-'))
  try {
    for (const each of ['config', 'bundles']) mkdirSync(join(folder, each))
    const file = join(folder, 'config/dropgate.yaml')
    writeFileSync(file, configs[0]!)
    const { drain_timeout } = loadConfig(file, { GATE_PASSWORD: 'secret' }).config
    equal(drain_timeout, drainSeconds * 1000)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
