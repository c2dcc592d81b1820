/**
 * Writes two texts from the option table: the JSON Schema for editors, and the options' page of the documents
 * (docs/reference/configuration.md).
 */
import { schema } from './options.ts'

interface Node {
  readonly type?: string
  readonly properties?: Readonly<Record<string, Node>>
  readonly items?: Node
  readonly default?: unknown
  readonly description?: string
  readonly 'x-expected'?: string
}

/** JSON Schema 2020-12 of `dropgate.yaml`, with the short forms that load.ts accepts. */
export function writeJsonSchema(): string {
  const { properties, ...rest } = JSON.parse(JSON.stringify(schema)) as Record<string, unknown> & {
    properties: Record<string, { items?: { properties?: Record<string, unknown> } }>
  }
  const { listen, database, issuers } = properties
  const issuer = issuers!.items!.properties!
  issuer.audience = { anyOf: [{ const: 'none' }, issuer.audience] }
  return `${JSON.stringify(
    {
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      title: 'dropgate.yaml',
      ...rest,
      properties: {
        ...properties,
        listen: { anyOf: [listen!.items, listen] },
        database: { anyOf: [{ const: 'embedded' }, database] },
      },
    },
    (key, value) => (key.startsWith('x-') ? undefined : orVariable(value)),
    2,
  )}\n`
}

/** What is no text may be written as a variable alone, which is a text for an editor. */
function orVariable(value: unknown): unknown {
  const { type, ...facts } = (value ?? {}) as Record<string, unknown>
  if (type !== 'integer' && type !== 'boolean') return value
  const { description, default: standard, ...rules } = facts
  const variable = { pattern: '^\\$\\{[A-Za-z_][A-Za-z0-9_]*(?::-[^}]*)?\\}$' }
  return { description, default: standard, type: [type, 'string'], ...rules, ...variable }
}

/** A heading and a Markdown table for each part of the file: option, default, description. */
export function writeTables(): string {
  const { properties } = schema as unknown as { properties: Readonly<Record<string, Node>> }
  const single: string[] = []
  const parts: string[] = []
  for (const [key, node] of Object.entries(properties)) {
    const rows = rowsOf(node, key)
    if (rows.length === 1) single.push(...rows)
    else parts.push(`## \`${key}\`\n\n${[...tableHead, ...rows].join('\n')}\n`)
  }
  return [...parts, `## Other options\n\n${[...tableHead, ...single].join('\n')}\n`].join('\n')
}

const tableHead = ['| Option | Default | What it is for |', '| --- | --- | --- |']

function rowsOf(node: Node, path: string): string[] {
  if (node.properties !== undefined)
    return Object.entries(node.properties).flatMap(([key, child]) =>
      rowsOf(child, `${path}.${key}`),
    )
  if (node.type === 'array' && node.items?.properties !== undefined)
    return rowsOf(node.items, `${path}[]`)
  const standard = node.default === undefined ? '' : `\`${plain(node.default)}\``
  return [`| \`${path}\` | ${standard} | ${node.description ?? ''} |`]
}

function plain(value: unknown): string {
  if (Array.isArray(value)) return `[${value.join(', ')}]`
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}
