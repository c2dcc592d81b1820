/**
 * `uri.*`: splits a URI like Go's `net/url`, with its rules for authority, port and escapes.
 */
import { isIPv6 } from 'node:net'
import type { BuiltinTable } from '../builtin.ts'
import { BuiltinError, text } from '../values/operand.ts'
import { RegoObject, type Value } from '../values/value.ts'
import { escapeText, unescapeText } from './escaping.ts'

/** Parts of a URI; a missing part is ''. */
interface Uri {
  readonly scheme: string
  /** Host with its port; an IPv6 address is in brackets. */
  readonly host: string
  readonly path: string
  readonly rawPath: string
  readonly query: string
  readonly fragment: string
}

const plainInPath = '$&+,/:;=@'
/** ASCII characters that a host may contain besides letters, digits and `-_.~`. */
const plainInHost = '!"$&\'()*+,:;<=>[]'

function invalid(why: string): BuiltinError {
  return new BuiltinError(`invalid URI: ${why}`)
}

/** @throws BuiltinError */
function parseUri(whole: string): Uri {
  const hash = whole.indexOf('#')
  const fragment = hash === -1 ? '' : unescapeText(whole.slice(hash + 1))
  const reference = hash === -1 ? whole : whole.slice(0, hash)
  if (/[\0-\x1f\x7f]/.test(reference)) throw invalid('control character')
  const none = { scheme: '', host: '', path: '', rawPath: '', query: '', fragment }
  if (reference === '*') return { ...none, path: '*', rawPath: '*' }
  const [scheme, afterScheme] = splitScheme(reference)
  const mark = afterScheme.indexOf('?')
  const query = mark === -1 ? '' : afterScheme.slice(mark + 1)
  let rest = mark === -1 ? afterScheme : afterScheme.slice(0, mark)
  if (!rest.startsWith('/')) {
    // An opaque URI, such as mailto:, has no host and path.
    if (scheme !== '') return { ...none, scheme, query }
    if (rest.split('/', 1)[0]!.includes(':')) throw invalid('colon in the first segment')
  }
  let host = ''
  if (rest.startsWith('//') && (scheme !== '' || !rest.startsWith('///'))) {
    const slash = rest.indexOf('/', 2)
    const authority = slash === -1 ? rest.slice(2) : rest.slice(2, slash)
    rest = slash === -1 ? '' : rest.slice(slash)
    host = parseAuthority(scheme, authority)
  }
  const path = unescapeText(rest)
  const rawPath = escapeText(path, plainInPath) === rest ? path : rest
  return { scheme, host, path, rawPath, query, fragment }
}

function splitScheme(reference: string): [scheme: string, rest: string] {
  if (reference.startsWith(':')) throw invalid('missing scheme')
  const match = /^([A-Za-z][A-Za-z0-9+.-]*):/.exec(reference)
  if (match === null) return ['', reference]
  return [match[1]!.toLowerCase(), reference.slice(match[0].length)]
}

function parseAuthority(scheme: string, authority: string): string {
  const at = authority.lastIndexOf('@')
  if (at !== -1) {
    const user = authority.slice(0, at)
    if (!/^[A-Za-z0-9\-._:~!$&'()*+,;=%@]*$/.test(user)) throw invalid('user information')
    unescapeText(user)
  }
  return parseHost(scheme, authority.slice(at + 1))
}

function parseHost(scheme: string, host: string): string {
  const open = host.lastIndexOf('[')
  if (open > 0) throw invalid('address in brackets')
  if (open === 0) {
    const close = host.lastIndexOf(']')
    if (close === -1) throw invalid('missing bracket')
    checkPort(host.slice(close + 1))
    const zoneAt = host.indexOf('%25')
    const inner = host.slice(1, close)
    const address = zoneAt === -1 ? inner : inner.slice(0, zoneAt - 1)
    const zone = zoneAt === -1 ? '' : unescapeZone(inner.slice(zoneAt - 1))
    const unescaped = unescapeHost(address) + zone
    if (!isIPv6(zone === '' ? unescaped : unescaped.slice(0, -zone.length)) || zone === '%')
      throw invalid('address in brackets')
    return `[${unescaped}]${host.slice(close + 1)}`
  }
  const first = host.indexOf(':')
  if (first !== -1) {
    // Other schemes may have hosts with colons, such as a list of hosts with ports.
    const strict = scheme === 'http' || scheme === 'https'
    checkPort(host.slice(strict ? first : host.lastIndexOf(':')))
  }
  return unescapeHost(host)
}

function checkPort(port: string): void {
  if (!/^(?::[0-9]*)?$/.test(port)) throw invalid('port')
}

/** Decodes a host, in which only bytes above ASCII may be percent-encoded. */
function unescapeHost(host: string): string {
  for (const [triplet] of host.matchAll(/%(?:..?)?/gs)) {
    if (/^%[0-7]/.test(triplet) && triplet !== '%25') throw invalid('escape in the host')
  }
  checkHostCharacters(host)
  return unescapeText(host)
}

function unescapeZone(zone: string): string {
  for (const [triplet] of zone.matchAll(/%(?:..?)?/gs)) {
    if (triplet === '%25' || triplet === '%20' || !/^%[0-9a-fA-F]{2}$/.test(triplet)) continue
    const char = String.fromCharCode(Number.parseInt(triplet.slice(1), 16))
    if (!/[A-Za-z0-9\-_.~]/.test(char) && !plainInHost.includes(char)) throw invalid('zone')
  }
  checkHostCharacters(zone)
  return unescapeText(zone)
}

function checkHostCharacters(host: string): void {
  for (const char of host) {
    const fine =
      char === '%' ||
      char.codePointAt(0)! >= 0x80 ||
      /[A-Za-z0-9\-_.~]/.test(char) ||
      plainInHost.includes(char)
    if (!fine) throw invalid('character in the host')
  }
}

function splitPort(host: string): [name: string, port: string] {
  const colon = host.lastIndexOf(':')
  const hasPort = colon !== -1 && /^:[0-9]*$/.test(host.slice(colon))
  const name = hasPort ? host.slice(0, colon) : host
  const bare = name.startsWith('[') && name.endsWith(']') ? name.slice(1, -1) : name
  return [bare, hasPort ? host.slice(colon + 1) : '']
}

function parts(whole: string): Value {
  const uri = parseUri(whole)
  const [hostname, port] = splitPort(uri.host)
  const out = new RegoObject()
  const put = (name: string, value: string): void => {
    if (value !== '') out.set(name, value)
  }
  put('scheme', uri.scheme)
  put('hostname', hostname)
  put('port', port)
  put('path', uri.path)
  put('raw_path', uri.path === '' ? '' : uri.rawPath)
  put('raw_query', uri.query)
  put('fragment', uri.fragment)
  return out
}

export const uriBuiltins: BuiltinTable = {
  'uri.parse': { call: (args) => parts(text(args, 0)) },
  'uri.is_valid': {
    call: ([value]) => {
      if (typeof value !== 'string' || value === '') return false
      try {
        parseUri(value)
        return true
      } catch (error) {
        if (error instanceof BuiltinError) return false
        throw error
      }
    },
  },
}
