/**
 * Writes two texts from the option table: the JSON Schema for editors and the option table of the README.
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
    properties: Record<string, { items?: unknown }>
  }
  const { listen, database } = properties
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

/** Returns Markdown table rows: option, default, description. */
export function writeTable(): string {
  const lines = ['| Option | Default | What it is for |', '| --- | --- | --- |']
  const walk = (node: Node, path: string): void => {
    if (node.properties !== undefined) {
      for (const [key, child] of Object.entries(node.properties)) {
        walk(child, path === '' ? key : `${path}.${key}`)
      }
    } else if (node.type === 'array' && node.items?.properties !== undefined) {
      walk(node.items, `${path}[]`)
    } else {
      const standard = node.default === undefined ? '' : `\`${plain(node.default)}\``
      lines.push(`| \`${path}\` | ${standard} | ${node.description ?? ''} |`)
    }
  }
  walk(schema as unknown as Node, '')
  return `${lines.join('\n')}\n`
}

function plain(value: unknown): string {
  if (Array.isArray(value)) return `[${value.join(', ')}]`
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}
