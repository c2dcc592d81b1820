/** What a refused value is, without its secrets, and what to write in its place where that can be told. */
import { nearest } from '../domain/nearest.ts'
import type { Unit } from './option-kinds.ts'

/** One option, or a group of options, of the schema in options.ts. */
export interface SchemaNode {
  readonly type?: string
  readonly enum?: readonly unknown[]
  readonly pattern?: string
  readonly properties?: Readonly<Record<string, SchemaNode>>
  readonly required?: readonly string[]
  readonly items?: SchemaNode
  readonly default?: unknown
  readonly 'x-unit'?: Unit
  readonly 'x-expected'?: string
}

export function describeValue(data: unknown): string {
  const text = JSON.stringify(data) ?? 'nothing'
  if (typeof data === 'string' && data.includes('://')) return describeUrl(data)
  // The value may hold a URL with a password, so it is not shown.
  if (text.includes('://')) return 'a URL (not shown, it may hold a password)'
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}

/** Names the parts of a URL and shows none that may be secret: user, password, query and fragment. */
function describeUrl(text: string): string {
  let url: URL
  try {
    url = new URL(text)
  } catch {
    return 'a URL that is malformed (not shown, it may hold a password)'
  }
  const parts: string[] = []
  if (url.username !== '' || url.password !== '') parts.push('a user or password')
  if (url.pathname !== '/' && url.pathname !== '') parts.push(`the path ${url.pathname}`)
  else if (/^[^/]*\/\/[^/?#]*\/$/.test(text)) parts.push('a slash at its end')
  if (url.search !== '') parts.push('a query')
  if (url.hash !== '') parts.push('a fragment')
  const last = parts.pop() ?? `the scheme ${url.protocol.slice(0, -1)}`
  return `a URL with ${parts.length === 0 ? last : `${parts.join(', ')} and ${last}`}`
}

/** Returns what to write, as the end of a sentence; '' where that cannot be told. */
export function adviceFor(node: SchemaNode, data: unknown): string {
  const better = betterValue(node, data)
  if (better !== undefined) return `; write ${better}`
  const near = nearChoice(node, data)
  return near === undefined ? '' : `; did you mean ${near}?`
}

function betterValue(node: SchemaNode, data: unknown): string | undefined {
  if (node.type === 'array' && typeof data === 'string' && data !== '') {
    const fits = new RegExp(node.items?.pattern ?? '').test(data)
    return fits && !data.includes('://') ? `[${data}]` : undefined
  }
  const text = typeof data === 'number' ? String(data) : data
  if (typeof text !== 'string') return undefined
  if (node['x-unit'] === 'duration') return duration(text)
  if (node['x-unit'] === 'size') return size(text)
  if (node.type === 'integer' || node['x-unit'] === 'workers')
    return typeof data === 'string' && /^\d+$/.test(data) ? `${data}, without quotes` : undefined
  if (node.type === 'boolean')
    return /^(?:yes|on)$/i.test(text) ? 'true' : /^(?:no|off)$/i.test(text) ? 'false' : undefined
  return fitting(node, text)
}

/** An entrypoint written with dots, or a path or pointer without its first slash, if that is what the option takes. */
function fitting({ pattern }: SchemaNode, text: string): string | undefined {
  if (pattern === undefined || pattern.includes('://') || !/^[\w-]/.test(text)) return undefined
  const test = new RegExp(pattern)
  return [text.replace(/^data\./, '').replaceAll('.', '/'), `/${text}`].find((each) =>
    test.test(each),
  )
}

function duration(text: string): string | undefined {
  if (/^\d+(?:\.\d+)?$/.test(text)) return `${text}s for seconds, ${text}ms for milliseconds`
  const [, digits, unit] = /^(\d+(?:\.\d+)?) ?(ms|s|m|h|d)[a-z]*$/i.exec(text.trim()) ?? []
  if (digits !== undefined) return `${digits}${unit!.toLowerCase()}`
  const parts = [...text.matchAll(/(\d+)([hms])/g)]
  if (parts.length < 2 || parts.map(([part]) => part).join('') !== text) return undefined
  const inSeconds: Readonly<Record<string, number>> = { h: 3600, m: 60, s: 1 }
  const seconds = parts.reduce((sum, [, count, unit]) => sum + Number(count) * inSeconds[unit!]!, 0)
  return seconds % 60 === 0 ? `${seconds / 60}m` : `${seconds}s`
}

function size(text: string): string | undefined {
  if (/^\d+$/.test(text)) return `${text}B for bytes, ${text}KiB for 1024 bytes each`
  const [, digits, unit] = /^(\d+) ?([kmg])i?b?$/i.exec(text.trim()) ?? []
  return digits === undefined ? undefined : `${digits}${unit!.toUpperCase()}iB`
}

/** The nearest of the values that the option can have. */
function nearChoice(node: SchemaNode, data: unknown): string | undefined {
  if (typeof data !== 'string') return undefined
  const [, listed] = /^(?:a list: )?(?:some|one) of ([^;]+)$/.exec(node['x-expected'] ?? '') ?? []
  const single = /`(\w+)`/.exec(node['x-expected'] ?? '')?.[1]
  const known =
    node.enum?.map(String) ?? listed?.split(', ') ?? (single === undefined ? [] : [single])
  const same = known.find((each) => each.toLowerCase() === data.toLowerCase())
  // HS256 has one letter less than ES256, and means something else.
  return same ?? (/\d/.test(data) ? undefined : nearest(data, known))
}
