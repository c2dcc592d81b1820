/**
 * Whether a token has the shape of one, before any cryptography (R33 and R35 of docs/boundary.md):
 * a base64url decoder and a JSON reader of its own, apart from src/identity/shape.ts.
 */
const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

export interface Shape {
  readonly alg: string
  readonly kid: string | undefined
  readonly typ: string | undefined
  /** Names of the claims. */
  readonly claims: readonly string[]
}

export function shapeOf(token: string): Shape | undefined {
  if (token.length > 16 * 1024) return undefined
  const parts: string[] = ['']
  for (const sign of token) {
    if (sign === '.') parts.push('')
    else parts[parts.length - 1] += sign
  }
  if (parts.length !== 3) return undefined
  const decoded = parts.map(decode)
  if (decoded.some((bytes) => bytes === undefined || bytes.length === 0)) return undefined
  const header = readJson(decoded[0]!)
  const claims = readJson(decoded[1]!)
  if (!(header instanceof Map) || !(claims instanceof Map)) return undefined
  for (const name of ['crit', 'b64', 'zip', 'enc']) if (header.has(name)) return undefined
  const { alg, kid, typ } = Object.fromEntries(header) as Record<string, unknown>
  if (typeof alg !== 'string') return undefined
  if (kid !== undefined && (typeof kid !== 'string' || kid.length > 256)) return undefined
  if (typ !== undefined && typeof typ !== 'string') return undefined
  let type = typ as string | undefined
  if (type !== undefined) {
    type = type.toLowerCase()
    if (type.startsWith('application/')) type = type.slice('application/'.length)
  }
  return { alg, kid: kid as string | undefined, typ: type, claims: [...claims.keys()] as string[] }
}

/** Bytes of the one spelling; undefined for any other. */
function decode(text: string): number[] | undefined {
  const bytes: number[] = []
  let [bits, held] = [0, 0]
  for (const sign of text) {
    const value = alphabet.indexOf(sign)
    if (value < 0) return undefined
    bits = (bits << 6) | value
    held += 6
    if (held >= 8) {
      held -= 8
      bytes.push((bits >> held) & 0xff)
      bits &= (1 << held) - 1
    }
  }
  return held >= 6 || bits !== 0 ? undefined : bytes
}

const wrong = new Error('not JSON of ours')

type Value = string | number | boolean | null | readonly Value[] | ReadonlyMap<string, Value>

/** RFC 8259 without room for opinion: no member twice, no more than 16 levels; undefined for anything else. */
function readJson(bytes: readonly number[]): Value | undefined {
  const text = Buffer.from(bytes).toString('utf8')
  // What is no UTF-8 does not come back as it was.
  if (Buffer.compare(Buffer.from(text, 'utf8'), Buffer.from(bytes)) !== 0) return undefined
  let at = 0
  const space = (): void => {
    while (' \t\n\r'.includes(text[at] ?? 'x')) at++
  }
  const expect = (word: string): void => {
    if (text.slice(at, at + word.length) !== word) throw wrong
    at += word.length
  }
  const value = (level: number): Value => {
    space()
    const sign = text[at]
    if (sign === '{') return object(level + 1)
    if (sign === '[') return array(level + 1)
    if (sign === '"') return string()
    if (sign === 't' || sign === 'f' || sign === 'n') {
      const word = sign === 't' ? 'true' : sign === 'f' ? 'false' : 'null'
      expect(word)
      return word === 'null' ? null : word === 'true'
    }
    return number()
  }
  const object = (level: number): Value => {
    if (level > 16) throw wrong
    const members = new Map<string, Value>()
    expect('{')
    space()
    if (text[at] === '}') {
      at++
      return members
    }
    for (;;) {
      space()
      const name = string()
      if (members.has(name) || members.size === 1000) throw wrong
      // Could only be written with an escape, see src/identity/shape.ts.
      for (const sign of name) if (sign < ' ' || sign === '"' || sign === '\\') throw wrong
      space()
      expect(':')
      members.set(name, value(level))
      space()
      if (text[at] === '}') {
        at++
        return members
      }
      expect(',')
    }
  }
  const array = (level: number): Value => {
    if (level > 16) throw wrong
    const items: Value[] = []
    expect('[')
    space()
    if (text[at] === ']') {
      at++
      return items
    }
    for (;;) {
      items.push(value(level))
      space()
      if (text[at] === ']') {
        at++
        return items
      }
      expect(',')
    }
  }
  const string = (): string => {
    expect('"')
    let out = ''
    for (;;) {
      const sign = text[at++]
      if (sign === undefined || sign < ' ') throw wrong
      if (sign === '"') return out
      if (sign !== '\\') {
        out += sign
        continue
      }
      const escaped = text[at++]!
      const plain = '"\\/bfnrt'.indexOf(escaped)
      if (escaped !== undefined && plain >= 0) out += '"\\/\b\f\n\r\t'[plain]
      else if (escaped === 'u') {
        const digits = text.slice(at, at + 4)
        if (digits.length < 4 || [...digits].some((d) => !'0123456789abcdefABCDEF'.includes(d)))
          throw wrong
        out += String.fromCharCode(Number.parseInt(digits, 16))
        at += 4
      } else throw wrong
    }
  }
  const digits = (): void => {
    const from = at
    while ('0123456789'.includes(text[at] ?? 'x')) at++
    if (at === from) throw wrong
  }
  const number = (): number => {
    const from = at
    if (text[at] === '-') at++
    if (text[at] === '0') at++
    else digits()
    if (text[at] === '.') {
      at++
      digits()
    }
    if (text[at] === 'e' || text[at] === 'E') {
      at++
      if (text[at] === '+' || text[at] === '-') at++
      digits()
    }
    return Number(text.slice(from, at))
  }
  try {
    const read = value(0)
    space()
    return at === text.length ? read : undefined
  } catch (error) {
    if (error === wrong) return undefined
    throw error
  }
}
