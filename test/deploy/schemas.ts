/**
 * Writes kubernetes.json: what Kubernetes itself says of the kinds that deploy/ uses, without its descriptions. Once for each
 * version, from the source of Kubernetes:
 *
 *     go mod download -json k8s.io/kubernetes@v1.37.2     # says its folder: Dir
 *     node test/deploy/schemas.ts DIR/api/openapi-spec/swagger.json
 */
import { readFileSync, writeFileSync } from 'node:fs'

const kinds = [
  ...['io.k8s.api.core.v1.ConfigMap', 'io.k8s.api.core.v1.Secret', 'io.k8s.api.core.v1.Service'],
  ...['io.k8s.api.core.v1.ServiceAccount', 'io.k8s.api.apps.v1.Deployment'],
  ...['io.k8s.api.batch.v1.Job', 'io.k8s.api.policy.v1.PodDisruptionBudget'],
  'io.k8s.api.networking.v1.NetworkPolicy',
]

interface Definition {
  readonly type?: string
  readonly format?: string
  readonly description?: string
  readonly properties?: Readonly<Record<string, Definition>>
  readonly additionalProperties?: unknown
  readonly 'x-kubernetes-group-version-kind'?: readonly {
    readonly group: string
    readonly version: string
    readonly kind: string
  }[]
}

const { definitions, info } = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as {
  definitions: Record<string, Definition>
  info: { version: string }
}
const found = new Map<string, object>()
const known: Record<string, string> = {}

for (const name of kinds) {
  const [named] = definitions[name]!['x-kubernetes-group-version-kind']!
  const { group, version, kind } = named!
  known[`${group === '' ? '' : `${group}/`}${version} ${kind}`] = name
  take(name)
}
writeFileSync(
  `${import.meta.dirname}/kubernetes.json`,
  `${JSON.stringify({ version: info.version, kinds: known, definitions: Object.fromEntries(found) })}\n`,
)

function take(name: string): void {
  if (found.has(name)) return
  const given = definitions[name]!
  found.set(name, {})
  // What may be a number or a text in YAML has no type of its own there.
  if (/IntOrString$|\.Quantity$/.test(name)) {
    found.set(name, { type: ['integer', 'number', 'string'] })
    return
  }
  const text = JSON.stringify(given, (key, value) =>
    key === 'description' || key.startsWith('x-') || key === 'format' ? undefined : value,
  )
  const schema = JSON.parse(text) as Definition
  const closed = schema.properties !== undefined && schema.additionalProperties === undefined
  found.set(name, closed ? { ...schema, additionalProperties: false } : schema)
  for (const [, used = ''] of text.matchAll(/"#\/definitions\/([^"]+)"/g)) take(used)
}
