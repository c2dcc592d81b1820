/**
 * Reads a request body for the policy. A body that two readers could understand differently is refused before the
 * decision: bytes that are not UTF-8, a content coding, a type that is neither JSON nor a form, a repeated key (in JSON
 * also one in another case), NUL, half a character, too much depth or too many keys. If the policy saw an empty
 * `parsed_body` instead, such a body would get past every rule about bodies.
 */
import { encodedName, encodedValue, formDecodeStrict } from '../domain/form.ts'
import { tokenCharacters } from '../domain/http.ts'
import { type StrictJson, strictJson } from '../domain/strict-json.ts'
import { GateError } from '../errors.ts'
import type { BodyTexts } from './input.ts'

/** Members of one object, and fields of a form. */
const maxMembers = 256
const oneReading: StrictJson = {
  maxDepth: 32,
  maxMembers,
  maxNumber: { characters: 64, exponent: 400 },
  escapedNames: 'keep',
  loose: true,
  refuse: malformed,
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const token = `[${tokenCharacters}]+`
const mediaType = new RegExp(
  `^(${token}/${token})((?:[ \\t]*;[ \\t]*${token}=(?:${token}|"[^"\\\\]*"))*)$`,
)
const charset = /;[ \t]*charset=(?:"([^"]*)"|([^;]*))/gi

export interface BodyHeaders {
  readonly contentType: string | undefined
  readonly contentEncoding: string | undefined
}

/**
 * @param parse True when the policy reads `parsed_body`: then the content type must be JSON or a form.
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
 * Checks that all readers understand this JSON the same way. @returns the text, with its numbers as written.
 * @throws GateError ERR_BODY_MALFORMED
 */
function checkJson(text: string): string {
  try {
    JSON.parse(text)
  } catch (error) {
    throw new GateError('ERR_BODY_MALFORMED', undefined, { cause: error })
  }
  return strictJson(text, oneReading)
}

/** A form as JSON text: `{name: [values]}`. @throws GateError ERR_BODY_MALFORMED */
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
  if (decoded.includes('\0')) throw malformed('a form field holds NUL')
  return decoded
}

function malformed(cause: string): GateError {
  return new GateError('ERR_BODY_MALFORMED', undefined, { cause })
}
