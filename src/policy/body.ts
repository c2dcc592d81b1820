/**
 * A request body as a policy may see it. What two readers could understand differently is refused before anything
 * is decided: bytes that are not UTF-8, a coding, a type that is neither JSON nor a form, a key twice, more depth or
 * keys than a rule needs. An empty `parsed_body` in place of a body that was not understood would be a way past
 * every rule about bodies.
 */
import { encodedName, encodedValue, formDecodeStrict } from '../domain/form.ts'
import { wellFormedJson } from '../domain/json.ts'
import { GateError } from '../errors.ts'
import type { BodyTexts } from './input.ts'

const maxDepth = 32
/** Members of one object, and fields of a form. */
const maxMembers = 256
/** Digits of a number and the power of ten it may have: arithmetic on more costs without bound. */
const maxNumber = 64
const maxExponent = 400

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
const mediaType = new RegExp(
  `^(${token}/${token})((?:[ \\t]*;[ \\t]*${token}=(?:${token}|"[^"\\\\]*"))*)$`,
)
const charset = /;[ \t]*charset=(?:"([^"]*)"|([^;]*))/gi

export interface BodyHeaders {
  readonly contentType: string | undefined
  readonly contentEncoding: string | undefined
}

/**
 * @param parse The policy reads `parsed_body`, so the type must be one that is understood.
 * @throws GateError ERR_BODY_MALFORMED, ERR_BODY_TYPE
 */
export function parseBody(bytes: Buffer, headers: BodyHeaders, parse: boolean): BodyTexts {
  if (bytes.length === 0) return { quoted: '""', parsed: 'null' }
  const { contentType = '', contentEncoding } = headers
  if (contentEncoding !== undefined && contentEncoding.toLowerCase() !== 'identity')
    throw new GateError('ERR_BODY_TYPE', undefined, { cause: 'the body is encoded' })
  let text: string
  try {
    text = decoder.decode(bytes)
  } catch (error) {
    throw new GateError('ERR_BODY_MALFORMED', undefined, { cause: error })
  }
  const quoted = JSON.stringify(text)
  if (!parse) return { quoted, parsed: 'null' }
  const [, type = '', parameters = ''] = mediaType.exec(contentType) ?? []
  for (const [, inQuotes, bare] of parameters.matchAll(charset)) {
    if ((inQuotes ?? bare!).toLowerCase() !== 'utf-8') throw new GateError('ERR_BODY_TYPE')
  }
  const lower = type.toLowerCase()
  if (lower === 'application/json' || lower.endsWith('+json'))
    return { quoted, parsed: checkJson(text) }
  if (lower === 'application/x-www-form-urlencoded') return { quoted, parsed: parseForm(text) }
  throw new GateError('ERR_BODY_TYPE')
}

/**
 * JSON that every reader reads alike. @returns the text, its numbers as written, lone surrogates as U+FFFD.
 * @throws GateError ERR_BODY_MALFORMED
 */
export function checkJson(text: string): string {
  // The grammar is the engine's to check; what follows may rely on it.
  try {
    JSON.parse(text)
  } catch (error) {
    throw new GateError('ERR_BODY_MALFORMED', undefined, { cause: error })
  }
  /** Keys of each open object; undefined for a list. */
  const open: (Set<string> | undefined)[] = []
  let keyNext = false
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case '{':
      case '[':
        if (open.length === maxDepth) throw malformed('it is too deep')
        keyNext = text[at] === '{'
        open.push(keyNext ? new Set() : undefined)
        break
      case '}':
      case ']':
        open.pop()
        keyNext = false
        break
      case ',':
        keyNext = open.at(-1) !== undefined
        break
      case '"': {
        const end = endOfString(text, at)
        if (keyNext) addKey(open.at(-1)!, text.slice(at, end + 1))
        keyNext = false
        at = end
        break
      }
      default: {
        const number = /[-0-9][-+.0-9eE]*/y
        number.lastIndex = at
        const digits = number.exec(text)?.[0]
        if (digits === undefined) break
        checkNumber(digits)
        at += digits.length - 1
      }
    }
  }
  return wellFormedJson(text)
}

function addKey(keys: Set<string>, quoted: string): void {
  // As the module will see it: two lone surrogates are one key there.
  const key = (JSON.parse(quoted) as string).toWellFormed()
  if (keys.has(key)) throw malformed('a key is there twice')
  if (keys.size === maxMembers) throw malformed('an object has too many keys')
  keys.add(key)
}

function endOfString(text: string, from: number): number {
  for (let at = from + 1; ; at++) {
    if (text[at] === '\\') at++
    else if (text[at] === '"') return at
  }
}

function checkNumber(digits: string): void {
  const exponent = Number(/[eE](.*)$/.exec(digits)?.[1] ?? 0)
  if (digits.length > maxNumber || Math.abs(exponent) > maxExponent)
    throw malformed('a number is too large')
}

/** `{name: [values]}` @throws GateError ERR_BODY_MALFORMED */
function parseForm(text: string): string {
  const fields = new Map<string, string[]>()
  const pairs = text.split('&').filter((pair) => pair !== '')
  if (pairs.length > maxMembers) throw malformed('it has too many fields')
  for (const pair of pairs) {
    const name = formText(encodedName(pair))
    const value = formText(encodedValue(pair))
    const values = fields.get(name)
    if (values === undefined) fields.set(name, [value])
    else values.push(value)
  }
  const members = Array.from(
    fields,
    ([name, values]) => `${JSON.stringify(name)}:${JSON.stringify(values)}`,
  )
  return `{${members.join(',')}}`
}

function formText(text: string): string {
  const decoded = formDecodeStrict(text)
  if (decoded === undefined) throw malformed('a form field is not percent-encoded UTF-8')
  return decoded
}

function malformed(cause: string): GateError {
  return new GateError('ERR_BODY_MALFORMED', undefined, { cause })
}
