/** What is wrong with manifests: by the schemas of Kubernetes itself (schemas.ts), and by what they say of each other. */
import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { parseAllDocuments } from 'yaml'

export interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string; readonly labels?: Readonly<Record<string, string>> }
  readonly data?: Readonly<Record<string, string>>
  readonly spec?: Spec
}

interface Spec {
  readonly selector?: Labels & { readonly matchLabels?: Labels }
  readonly podSelector?: { readonly matchLabels: Labels }
  readonly strategy?: { readonly rollingUpdate: { readonly maxUnavailable: number } }
  readonly template?: {
    readonly metadata: { readonly labels: Labels }
    readonly spec: PodSpec
  }
  readonly ports?: readonly { readonly targetPort: string }[]
}

type Labels = Readonly<Record<string, string>>

export interface PodSpec {
  readonly terminationGracePeriodSeconds?: number
  readonly automountServiceAccountToken?: boolean
  readonly securityContext: { readonly runAsNonRoot: boolean; readonly runAsUser: number }
  readonly containers: readonly Container[]
  readonly volumes: readonly { readonly name: string }[]
}

interface Container {
  readonly args: readonly string[]
  readonly env: readonly { readonly name: string; readonly value: string }[]
  readonly ports?: readonly { readonly name: string; readonly containerPort: number }[]
  readonly securityContext: Readonly<Record<string, unknown>>
  readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[]
  readonly lifecycle?: { readonly preStop: { readonly sleep: { readonly seconds: number } } }
  readonly readinessProbe?: Probe
  readonly livenessProbe?: Probe
  readonly startupProbe?: Probe
}

interface Probe {
  readonly httpGet: { readonly path: string; readonly port: string }
}

const { kinds, definitions } = JSON.parse(
  readFileSync(`${import.meta.dirname}/kubernetes.json`, 'utf8'),
) as { kinds: Record<string, string>; definitions: object }
const schemas = new Ajv2020({ strict: false, allErrors: true })
schemas.addSchema({ $id: 'kubernetes', definitions })

export function manifestsIn(text: string): Manifest[] {
  return parseAllDocuments(text)
    .map((document) => document.toJS() as Manifest | null)
    .filter((manifest) => manifest !== null)
}

/** Kinds of which Kubernetes itself knows nothing. */
const foreign = ['monitoring.coreos.com/v1 ServiceMonitor']

/** By the schemas. An unknown key is one too: the API server would drop it without a word. */
export function schemaProblems(manifest: Manifest): string[] {
  const { apiVersion, kind, metadata } = manifest
  const name = `${apiVersion} ${kind}`
  if (foreign.includes(name)) return []
  const definition = kinds[name]
  if (definition === undefined) return [`${name} is not in kubernetes.json`]
  const check = schemas.getSchema(`kubernetes#/definitions/${definition}`)!
  if (check(manifest)) return []
  return check.errors!.map(({ instancePath, message, params }) => {
    const key = (params as { additionalProperty?: string }).additionalProperty
    return `${kind} ${metadata.name}: ${instancePath}: ${message}${key === undefined ? '' : ` (${key})`}`
  })
}

/** @param drainSeconds `drain_timeout` of the configuration. */
export function relationProblems(manifests: readonly Manifest[], drainSeconds: number): string[] {
  const pods = manifests.flatMap(({ kind, spec }) =>
    spec?.template === undefined ? [] : [{ kind, ...spec.template }],
  )
  const problems: string[] = []
  const demand = (is: boolean, what: string): void => {
    if (!is) problems.push(what)
  }
  for (const { kind, metadata, spec } of manifests) {
    const wanted = spec?.selector?.matchLabels ?? spec?.podSelector?.matchLabels ?? spec?.selector
    if (wanted === undefined || kind === 'ServiceMonitor') continue
    const chosen = pods.filter((pod) => hasLabels(pod.metadata.labels, wanted as Labels))
    demand(chosen.length === 1, `${kind} ${metadata.name} selects ${chosen.length} kinds of pods`)
    const named = chosen.flatMap((pod) => pod.spec.containers[0]!.ports ?? [])
    for (const { targetPort } of spec?.ports ?? [])
      demand(
        named.some(({ name }) => name === targetPort),
        `${kind} ${metadata.name}: no port ${targetPort}`,
      )
  }
  for (const { kind, spec } of pods) {
    problems.push(...podProblems(spec).map((problem) => `${kind}: ${problem}`))
    if (kind !== 'Deployment') continue
    const { lifecycle, readinessProbe, livenessProbe, startupProbe } = spec.containers[0]!
    const sleep = lifecycle?.preStop.sleep.seconds ?? 0
    const grace = spec.terminationGracePeriodSeconds ?? 30
    demand(grace > sleep + drainSeconds, `${kind}: ${grace} s are too short for the drain`)
    demand(readinessProbe?.httpGet.path === '/readyz', `${kind}: readiness is not /readyz`)
    for (const probe of [livenessProbe, startupProbe])
      demand(probe?.httpGet.path === '/livez', `${kind}: a probe depends on more than the gate`)
  }
  const rolling = manifests.find(({ kind }) => kind === 'Deployment')?.spec?.strategy
  demand(rolling?.rollingUpdate.maxUnavailable === 0, 'a gate ends before another one is ready')
  return problems
}

function hasLabels(labels: Labels, wanted: Labels): boolean {
  return Object.entries(wanted).every(([name, value]) => labels[name] === value)
}

function podProblems(spec: PodSpec): string[] {
  const problems: string[] = []
  const [container] = spec.containers
  const { volumeMounts, securityContext } = container!
  const volumes = spec.volumes.map(({ name }) => name).sort()
  const mounted = volumeMounts.map(({ name }) => name).sort()
  if (volumes.join() !== mounted.join()) problems.push(`volumes ${volumes}, mounted ${mounted}`)
  for (const { name, value } of container!.env) {
    const isInMount = volumeMounts.some(({ mountPath }) => value.startsWith(`${mountPath}/`))
    if (name.endsWith('_FILE') && !isInMount) problems.push(`${value} is not mounted`)
  }
  if (!container!.args[2]?.startsWith('/etc/dropgate/config/')) problems.push('no configuration')
  const expected = { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true }
  for (const [name, value] of Object.entries(expected))
    if (securityContext[name] !== value) problems.push(`${name} is not ${value}`)
  if (JSON.stringify(securityContext.capabilities) !== '{"drop":["ALL"]}')
    problems.push('it keeps capabilities')
  if (!spec.securityContext.runAsNonRoot || spec.securityContext.runAsUser === 0)
    problems.push('it may run as root')
  if (spec.automountServiceAccountToken !== false) problems.push('it can reach the cluster')
  return problems
}
