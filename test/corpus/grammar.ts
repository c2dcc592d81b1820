/**
 * Requests put together from small grammars. Each production knows what it means: what the upstream gets of it, or with
 * which refusal it makes the whole request wrong. So what must come of a generated request is known without parsing it.
 */
import type { Case, Refusal } from './case.ts'
import { host as goodHost, inDoubt } from './case.ts'

type Random = () => number

/** Makes the request wrong. */
interface Defect {
  readonly status: number
  readonly code: string
}

interface Piece {
  readonly text: string
  readonly defect?: Defect
}

interface Path extends Piece {
  readonly wire: string
  readonly route: string
}

interface Line extends Piece {
  /** `name: value` as the upstream gets it. */
  readonly arrives?: string
}

interface Body extends Piece {
  readonly headers: readonly string[]
  readonly content: string
  readonly framing: 'none' | 'length' | 'chunks'
}

const target = { status: 400, code: 'ERR_TARGET_MALFORMED' }
const header = { status: 400, code: 'ERR_HEADER_MALFORMED' }
const repeated = { status: 400, code: 'ERR_HEADER_REPEATED' }
const badHost = { status: 400, code: 'ERR_HOST_MALFORMED' }
const framing = { status: 400, code: 'ERR_FRAMING' }
const coding = { status: 501, code: 'ERR_TRANSFER_CODING' }
const unknown = { status: 501, code: 'ERR_METHOD_UNKNOWN' }

/** @param defects Chance of each part to be wrong; 0 makes requests that must be allowed. */
export function generate(random: Random, defects: number): Case {
  const wrong = (): boolean => random() < defects
  const method = methodOf(random, wrong())
  const path = pathOf(random, wrong())
  const host = hostOf(random, wrong())
  const version = random() < 0.9 ? '1.1' : '1.0'
  const body = bodyOf(random, wrong(), version)
  const lines = linesOf(random, wrong(), version)
  const close = random() < 0.1
  const headers = shuffled(random, [
    host.text,
    ...body.headers,
    ...lines.map(({ text }) => text),
    ...(close ? [cased(random, 'Connection: close')] : []),
  ])
  const found = [method, path, host, body, ...lines].flatMap(({ defect }) => defect ?? [])
  const bytes = `${[`${method.text} ${path.text} HTTP/${version}`, ...headers].join('\r\n')}\r\n\r\n${body.text}`
  const closes = close || version === '1.0'
  const name = JSON.stringify(bytes.slice(0, 300))
  if (found.length > 0) {
    const answers = found.map(
      ({ status, code }): Refusal => ({
        status,
        code,
        closes: closes || inDoubt(status) || body.headers.length > 0,
      }),
    )
    return { rule: 'grammar', name, bytes, expectation: { kind: 'refused', answers } }
  }
  const empty = body.framing === 'none' && /^P/.test(method.text)
  return {
    rule: 'grammar',
    name,
    bytes,
    expectation: {
      kind: 'allowed',
      line: `${method.text} ${path.wire} HTTP/1.1`,
      host: host.wire,
      route: path.route,
      headers: lines.flatMap(({ arrives }) => arrives ?? []),
      framing: empty ? 'length' : body.framing,
      body: body.content,
      closes,
      interim: [],
    },
  }
}

function methodOf(random: Random, wrong: boolean): Piece {
  if (!wrong) return { text: pick(random, ['GET', 'GET', 'POST', 'PUT', 'PATCH', 'DELETE']) }
  return { text: pick(random, ['BREW', 'PROPFIND', 'get', 'QUERY', 'PURGE']), defect: unknown }
}

const unreserved = 'abcXYZ019-_~'
const delims = "!$&'()*+,=:@"

function pathOf(random: Random, wrong: boolean): Path {
  const route = random() < 0.7 ? 'public' : 'lenient'
  let text = pick(random, ['', '', '', `http://${goodHost}`])
  let wire = `/${route}`
  text += random() < 0.8 ? wire : `/${encoded(random, route[0]!)}${route.slice(1)}`
  for (let i = upTo(random, 4); i > 0; i--) {
    let segment = 'x'
    let sent = 'x'
    for (let k = upTo(random, 6); k > 0; k--) {
      const made = character(random, route)
      segment += made.text
      sent += made.wire
    }
    text += `/${segment}`
    wire += `/${sent}`
  }
  if (wrong) {
    const bad = pick(random, [
      '/..', '/../a', '/.', '/%2e%2e/a', '/.%2E', '//', '/a%00', '/a%0d%0a', '/a%7F', '/%c0%af', '/%ff', '/%', '/%4', '/%zz', '/a\\b', '/a"b',
      '/a%5c', '/..;', '/;', '/%252e%252e/a', '/..%2f', '/a%2f..', '/<', '/`', '/a//b',
      ...(route === 'public' ? ['/a;b', '/a%2fb', '/a%25b', '/a;'] : []),
    ]) // biome-ignore format: a table
    return { text: text + bad, wire: '', route, defect: target }
  }
  if (random() < 0.4) {
    let query = '?'
    for (let k = upTo(random, 8); k > 0; k--)
      query += pick(random, [
        'a',
        '=',
        '&',
        '/../',
        '%2F',
        '%41',
        '?',
        '//',
        ';',
        '..',
        "'",
        '"',
        '{',
      ])
    text += query
    wire += query
  }
  const [path = ''] = wire.split('?')
  // A slash behind a semicolon would be out of the policy's sight.
  const hides = path.split('/').some((each) => /;.*%2[Ff]/.test(each))
  return hides ? { text, wire: '', route, defect: target } : { text, wire, route }
}

/** One character of a segment as the client may write it and as it is sent. */
function character(random: Random, route: string): { text: string; wire: string } {
  const kind = random()
  if (kind < 0.5) {
    const plain = pick(random, [...unreserved])
    return { text: random() < 0.8 ? plain : encoded(random, plain), wire: plain }
  }
  if (kind < 0.55) {
    const raw = pick(random, [...'[]|^'])
    const wire = `%${raw.charCodeAt(0).toString(16).toUpperCase()}`
    return { text: random() < 0.8 ? raw : encoded(random, raw), wire }
  }
  if (kind < 0.7) {
    const delim = pick(random, [...delims])
    return { text: delim, wire: delim }
  }
  const sent = pick(random, [
    '%20', '%21', '%3A', '%C3%A9', '%E2%82%AC', '%F0%9F%94%91', '%22', '%3C',
    ...(route === 'lenient' ? ['%2F', '%25', ';v=1'] : []),
  ]) // biome-ignore format: a table
  return {
    text: random() < 0.5 ? sent : sent.replace(/%../g, (each) => each.toLowerCase()),
    wire: sent,
  }
}

function encoded(random: Random, plain: string): string {
  const hex = plain.charCodeAt(0).toString(16)
  return `%${random() < 0.5 ? hex : hex.toUpperCase()}`
}

function hostOf(random: Random, wrong: boolean): Piece & { wire: string } {
  if (wrong) {
    const text = pick(random, [
      'Host:', `Host: ${goodHost}:`, `Host: ${goodHost}:0`, `Host: ${goodHost}:99999`, `Host: u@${goodHost}`, `Host: ${goodHost}/x`,
      `Host: ${goodHost}, a`, `Host: ${goodHost}\r\nHost: ${goodHost}`, 'Host: a..b', 'Host: [::1', 'Host: 127.1', 'X-No-Host: a',
    ]) // biome-ignore format: a table
    return { text, wire: '', defect: badHost }
  }
  const name = pick(random, [goodHost, goodHost.toUpperCase(), `${goodHost}.`, `${goodHost}:80`])
  return {
    text: `${pick(random, ['Host', 'host', 'HOST'])}:${pick(random, ['', ' ', '\t '])}${name}`,
    wire: goodHost,
  }
}

function linesOf(random: Random, wrong: boolean, version: string): Line[] {
  const lines: Line[] = []
  for (let i = upTo(random, 6); i > 0; i--) {
    const kind = random()
    if (kind < 0.4) {
      const value = words(random)
      lines.push({
        text: `${cased(random, `x-${i}`)}:${pick(random, ['', ' ', ' \t'])}${value}${pick(random, ['', ' '])}`,
        arrives: `x-${i}: ${value}`,
      })
    } else if (kind < 0.6) {
      const name = pick(random, ['accept', 'cookie', 'via', 'if-match', 'accept-language'])
      const value = words(random)
      lines.push({ text: `${cased(random, name)}: ${value}`, arrives: `${name}: ${value}` })
    } else if (kind < 0.8) {
      const name = pick(random, ['X-Dropgate-Subject', 'X-Forwarded-For', 'X-Real-IP', 'X-Original-URL', 'X-Auth-Request-User', 'X-HTTP-Method-Override', 'Proxy-Connection', 'TE', 'Forwarded']) // biome-ignore format: a table
      if (lines.some(({ text }) => text.toLowerCase().startsWith(`${name.toLowerCase()}:`)))
        continue
      lines.push({ text: `${cased(random, name)}: ${words(random)}` })
    } else {
      lines.push(
        { text: `Connection: x-hop${i}` },
        { text: `${cased(random, `x-hop${i}`)}: ${words(random)}` },
      )
    }
  }
  if (wrong) {
    lines.push(
      pick<Line>(random, [
        { text: 'X_Dropgate_Subject: root', defect: header },
        { text: 'X.Forwarded.For: 1', defect: header },
        { text: 'X-A : 1', defect: header },
        { text: 'X-A: caf\xe9', defect: header },
        { text: 'X-A: \x01', defect: header },
        { text: 'X-A: a\0b', defect: header },
        { text: 'no colon', defect: header },
        { text: 'X(A): 1', defect: header },
        { text: 'Connection: authorization', defect: header },
        { text: 'Connection: X_Forwarded_For', defect: header },
        { text: 'Content-Type: a/b\r\ncontent-type: a/b', defect: repeated },
        { text: 'X-Dropgate-Route: a\r\nX-Dropgate-Route: a', defect: repeated },
        { text: 'Authorization: a\r\nAuthorization: b', defect: { status: 400, code: 'ERR_CREDENTIAL_REPEATED' } },
        // HTTP/1.0 knows no expectations: there it is the name that is wrong.
        { text: version === '1.1' ? 'Expect: something' : 'Ex_pect: x', defect: version === '1.1' ? { status: 417, code: 'ERR_EXPECTATION' } : header },
      ]), // biome-ignore format: a table
    )
  }
  return lines
}

function bodyOf(random: Random, wrong: boolean, version: string): Body {
  const content = bytes(random, upTo(random, 40))
  if (wrong) {
    const bad = pick<readonly [headers: string[], defect: Defect]>(random, [
      [['Content-Length: 5', 'Transfer-Encoding: chunked'], framing],
      [['Content-Length: 5', 'Content-Length: 6'], framing],
      [['Content-Length: +5'], framing],
      [['Content-Length: 5,5'], framing],
      [['Content-Length: 0x5'], framing],
      version === '1.0' ? [['Transfer-Encoding: chunked'], framing] : [['Transfer-Encoding: gzip, chunked'], coding],
      [['Content-Length: 4096'], { status: 413, code: 'ERR_BODY_TOO_LARGE' }],
    ]) // biome-ignore format: a table
    return {
      text: '5\r\nhello\r\n0\r\n\r\n',
      headers: bad[0],
      content: '',
      framing: 'none',
      defect: bad[1],
    }
  }
  const kind = random()
  if (kind < 0.5) return { text: '', headers: [], content: '', framing: 'none' }
  if (kind < 0.75 || version === '1.0') {
    if (content === '') return { text: '', headers: [], content: '', framing: 'none' }
    const headers = [cased(random, `Content-Length: ${content.length}`)]
    return { text: content, headers, content, framing: 'length' }
  }
  let text = ''
  for (let at = 0; at < content.length; ) {
    const size = 1 + upTo(random, 15)
    const part = content.slice(at, at + size)
    text += `${'0'.repeat(upTo(random, 2))}${part.length.toString(16)}${pick(random, ['', '', ';a', ';a=b'])}\r\n${part}\r\n`
    at += size
  }
  text += `0\r\n${pick(random, ['', '', 'X-Trailer: 1\r\n'])}\r\n`
  return {
    text,
    headers: [cased(random, 'Transfer-Encoding: chunked')],
    content,
    framing: 'chunks',
  }
}

function words(random: Random): string {
  let text = ''
  for (let i = 1 + upTo(random, 4); i > 0; i--)
    text += pick(random, ['a', 'b=1', ',', ';', '"q"', '%0d%0a', '\t', ' ', '{}'])
  return text.trim() === '' ? 'v' : text.trim()
}

function bytes(random: Random, length: number): string {
  let text = ''
  for (let i = 0; i < length; i++) text += String.fromCharCode(Math.floor(random() * 256))
  return text
}

function cased(random: Random, line: string): string {
  const end = line.includes(':') ? line.indexOf(':') : line.length
  const name = [...line.slice(0, end)].map((c) =>
    random() < 0.5 ? c.toLowerCase() : c.toUpperCase(),
  )
  return name.join('') + line.slice(end)
}

/** The parts in another order; a piece of two lines stays together. */
function shuffled<T>(random: Random, parts: readonly T[]): T[] {
  const out: T[] = []
  for (const part of parts) out.splice(upTo(random, out.length), 0, part)
  return out
}

/** A whole number from 0 to `most`. */
function upTo(random: Random, most: number): number {
  return Math.floor(random() * (most + 1))
}

function pick<T>(random: Random, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)]!
}
