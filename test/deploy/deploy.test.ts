/** What deploy/ holds, as far as it can be known without running it. `make release` runs it. */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { loadConfig } from '../../src/config/load.ts'
import { manifestsIn, relationProblems, schemaProblems } from './manifests.ts'

const read = (file: string): string => readFileSync(join('deploy', file), 'utf8')
const drainSeconds = 30

t.test(
  '`config check` accepts each configuration, and the gate of none needs the passwords of others',
  async (t) => {
    for (const way of ['systemd', 'container', 'kubernetes']) {
      // As it is mounted: in Kubernetes the configuration and the bundles have a folder each.
      const folder = t.testdir({ config: {}, bundles: {} })
      const file = join(folder, way === 'kubernetes' ? 'config' : '.', 'dropgate.yaml')
      writeFileSync(file, read(`${way}/dropgate.yaml`))
      const env = { PATH: process.env.PATH, GATE_PASSWORD: 'secret' }
      const command = ['bin/dropgate.js', 'config', 'check', '--config', file]
      const done = spawnSync('node_modules/.bin/node', command, { env, encoding: 'utf8' })
      t.equal(done.status, 0, `${way}: ${done.stderr}`)
      t.equal(loadConfig(file, env).config.drain_timeout, drainSeconds * 1000, way)
      const without = spawnSync('node_modules/.bin/node', command, {
        env: { PATH: process.env.PATH },
        encoding: 'utf8',
      })
      t.match(without.stderr, /the variable GATE_PASSWORD is not set/, way)
    }
  },
)

t.test('no program gets a password as an argument, which every user could see', async (t) => {
  const script = read('container/logins.sh').replace(/^#.*$/gm, '')
  t.match(script, /^\\set gate `cat \/run\/secrets\/gate-password`$/m)
  t.notMatch(script, /\$\(|\$\{|--(?:set|variable)=(?!ON_ERROR_STOP)/)
})

const analyze = (...args: string[]) => spawnSync('systemd-analyze', args, { encoding: 'utf8' })
const noSystemd = analyze('--version').status === 0 ? false : 'systemd-analyze is not installed'
const noKubectl =
  spawnSync('kubectl', ['version', '--client']).status === 0 ? false : 'kubectl is not installed'

t.test(
  'the unit: systemd finds nothing wrong, and exposes little',
  { skip: noSystemd },
  async (t) => {
    const unit = read('systemd/dropgate.service')
    t.match(unit, /^TimeoutStopSec=(?:3[1-9]|[4-9]\d)$/m, 'longer than the drain')
    t.notMatch(unit, /^MemoryDenyWriteExecute=/m, 'Node.js would end at its start')
    const folder = t.testdir({})
    const file = join(folder, 'dropgate.service')
    // systemd wants a program that is there.
    writeFileSync(file, unit.replace('/opt/dropgate/bin/dropgate', process.execPath))
    const verified = analyze('verify', '--man=no', file)
    t.same([verified.status, verified.stderr], [0, ''])
    const judged = analyze('security', '--offline=true', '--threshold=20', '--no-pager', file)
    t.equal(judged.status, 0, judged.stdout)
  },
)

t.test('the Dockerfile: a user by number, no shell, a base of one version', async (t) => {
  const lines = read('container/Dockerfile').replaceAll('\\\n', ' ').split('\n')
  const of = (word: string): string[] => lines.filter((line) => line.startsWith(`${word} `))
  t.same(of('USER'), ['USER 65532:65532'])
  for (const word of ['ENTRYPOINT', 'CMD']) t.match(of(word).join(), /^\w+ \[".*"\]$/, word)
  t.match(of('HEALTHCHECK').join(), / CMD \["node", /)
  t.match(of('ARG').join(), /^ARG BASE=\S+:24-\S+$/)
  for (const line of lines) t.notMatch(line, /latest|curl|apt-get/)
  t.notMatch(read('container/compose.yaml'), /latest/)
})

interface Service {
  readonly image: string
  readonly secrets?: readonly string[]
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>
  readonly environment?: Readonly<Record<string, string>>
  readonly volumes: readonly string[]
  readonly stop_grace_period?: string
  readonly healthcheck?: object
}

t.test(
  'the Compose file: what it names is there, in the order in which it is needed',
  async (t) => {
    const compose = parse(read('container/compose.yaml'), { merge: true }) as {
      services: Record<string, Service>
      secrets: Record<string, { file: string }>
      volumes: Record<string, null>
    }
    const { services, secrets, volumes } = compose
    t.same(Object.keys(services), ['postgres', 'migrate', 'gate'])
    for (const [name, service] of Object.entries(services)) {
      for (const secret of service.secrets!) t.ok(secret in secrets, `${name}: ${secret}`)
      for (const [key, value] of Object.entries(service.environment!))
        if (key.endsWith('_FILE'))
          t.ok(service.secrets!.includes(value.replace('/run/secrets/', '')), `${name}: ${key}`)
      for (const volume of service.volumes) {
        const [from = ''] = volume.split(':')
        // The reader brings the bundles.
        const isThere =
          from in volumes || from === './bundles' || existsSync(join('deploy/container', from))
        t.ok(isThere, `${name}: ${from}`)
      }
      for (const each of Object.keys(service.depends_on ?? {})) t.ok(each in services, each)
    }
    t.equal(services.migrate!.depends_on!.postgres!.condition, 'service_healthy')
    t.equal(services.gate!.depends_on!.migrate!.condition, 'service_completed_successfully')
    t.ok(services.postgres!.healthcheck)
    t.ok(Number.parseInt(services.gate!.stop_grace_period!, 10) > drainSeconds)
    const used = new Set(Object.values(services).flatMap((service) => service.secrets!))
    t.same([...used].sort(), Object.keys(secrets).sort(), 'each secret is used')
  },
)

const files = readdirSync('deploy/kubernetes').filter(
  (name) => name.endsWith('.yaml') && name !== 'kustomization.yaml' && name !== 'dropgate.yaml',
)
const manifests = files.flatMap((file) => manifestsIn(read(`kubernetes/${file}`)))

t.test('the manifests: valid for Kubernetes, and they fit each other', async (t) => {
  t.equal(manifests.length, 7)
  t.same(manifests.flatMap(schemaProblems), [])
  t.same(relationProblems(manifests, drainSeconds), [])
  const text = read('kubernetes/kustomization.yaml')
  for (const file of files) t.match(text, `- ${file}`, `${file} is listed`)
})

t.test('what is wrong in a manifest is found', async (t) => {
  const written = read('kubernetes/deployment.yaml')
  const wrong: readonly (readonly [what: RegExp, from: string, to: string])[] = [
    [/\/spec\/replicas: must be integer/, 'replicas: 2', 'replicas: "2"'],
    [/\(readinesProbe\)/, 'readinessProbe:', 'readinesProbe:'],
    [/must be array/, '[serve, --config, /etc/dropgate/config/dropgate.yaml]', 'serve'],
    [/must have required property 'selector'/, '  selector:\n    matchLabels', '  selektor:\n    matchLabels'],
    [/apps\/v2 Deployment is not in/, 'apiVersion: apps/v1', 'apiVersion: apps/v2'],
    [/too short for the drain/, 'terminationGracePeriodSeconds: 45', 'terminationGracePeriodSeconds: 35'],
    [/too short for the drain/, '      terminationGracePeriodSeconds: 45\n', ''],
    [/selects 0 kinds/, '        app.kubernetes.io/component: gate\n    spec', '        app.kubernetes.io/component: gates\n    spec'],
    [/no port http/, 'name: http, containerPort', 'name: web, containerPort'],
    [/depends on more than the gate/, 'path: /livez', 'path: /readyz'],
    [/readiness is not \/readyz/, 'path: /readyz', 'path: /livez'],
    [/volumes .*, mounted /, '            - {name: tmp, mountPath: /tmp}\n', ''],
    [/is not mounted/, 'value: /run/secrets/dropgate/', 'value: /run/secrets/'],
    [/readOnlyRootFilesystem is not true/, 'readOnlyRootFilesystem: true', 'readOnlyRootFilesystem: false'],
    [/keeps capabilities/, '            capabilities: {drop: [ALL]}\n', ''],
    [/may run as root/, 'runAsUser: 65532', 'runAsUser: 0'],
    [/can reach the cluster/, '      automountServiceAccountToken: false\n', ''],
    [/before another one is ready/, 'maxUnavailable: 0', 'maxUnavailable: 1'],
  ] // biome-ignore format: a table
  const others = manifests.filter(({ kind }) => kind !== 'Deployment')
  for (const [what, from, to] of wrong) {
    t.equal(written.split(from).length > 1, true, `${from} is there`)
    const broken = [...others, ...manifestsIn(written.replace(from, to))]
    const found = [...broken.flatMap(schemaProblems), ...relationProblems(broken, drainSeconds)]
    t.match(found.join('\n'), what, to)
  }
})

t.test('kustomize makes one whole of them', { skip: noKubectl }, async (t) => {
  const folder = t.testdir({})
  cpSync('deploy/kubernetes', folder, { recursive: true })
  cpSync('bundles/gate.tar.gz', join(folder, 'gate.tar.gz'))
  const done = spawnSync('kubectl', ['kustomize', folder], { encoding: 'utf8' })
  t.equal(done.status, 0, done.stderr)
  const made = manifestsIn(done.stdout)
  t.same(made.flatMap(schemaProblems), [])
  t.same(relationProblems(made, drainSeconds), [])
  const names = made.filter(({ kind }) => kind === 'ConfigMap').map(({ metadata }) => metadata.name)
  const deployment = JSON.stringify(made.find(({ kind }) => kind === 'Deployment'))
  for (const name of names) t.match(deployment, `"name":"${name}"`, 'named with its checksum')
  t.match(deployment, '"image":"registry.example/dropgate:0.1.0"')
})

t.test('docs/running.md names files that are there', async (t) => {
  const text = readFileSync('docs/running.md', 'utf8')
  const named = text.match(/\bdeploy\/[\w./-]*\w/g)!
  t.ok(named.length > 10)
  for (const path of named) t.ok(existsSync(path), path)
})
