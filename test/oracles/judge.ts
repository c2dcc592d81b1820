/**
 * The code of the gate beside the test oracles of this folder. A test oracle is a second way to work out the right result:
 * here, readers of the same bytes that were written from docs/boundary.md alone and share no code with src/. Each judge
 * says what the two disagree about, or nothing. An error other than a GateError is a crash and is thrown to the caller.
 */
import type { IncomingMessage } from 'node:http'
import type { RequestHeaders } from '../../src/domain/request-headers.ts'
import { GateError } from '../../src/errors.ts'
import { parseTokenShape } from '../../src/identity/shape.ts'
import { parseHeaders } from '../../src/listener/headers.ts'
import { parseRequestTarget, type Target } from '../../src/route/target.ts'
import { passedOn, upstreamHeaders } from '../../src/upstream/headers.ts'
import { needsRoute, passed, reasonsAgainst, repeats } from './headers.ts'
import { meaningOf, meaningOfHost } from './target.ts'
import { shapeOf } from './token.ts'

type Judgement = string | undefined

function attempt<T>(run: () => T): T | GateError {
  try {
    return run()
  } catch (error) {
    if (error instanceof GateError) return error
    throw error
  }
}

const shown = (value: unknown): string =>
  value instanceof GateError ? value.code : JSON.stringify(value)

const options = { scheme: 'http', maxBytes: 8192 } as const
const verdictCodes = {
  target: 'ERR_TARGET_MALFORMED',
  'too long': 'ERR_TARGET_TOO_LONG',
  host: 'ERR_HOST_MALFORMED',
}

export function judgeTarget(method: string, raw: string): Judgement {
  const ours = attempt(() => parseRequestTarget(method, raw, 'api.example.com', options))
  const theirs = meaningOf(method, raw, 'api.example.com', options.maxBytes)
  const ourText =
    ours instanceof GateError
      ? ours.code
      : JSON.stringify([...tuple(ours), ours.doubt?.strayPercent ?? false, apartOf(ours)])
  const theirText =
    typeof theirs === 'string'
      ? verdictCodes[theirs]
      : JSON.stringify([
          ...tuple(theirs),
          theirs.strayPercent,
          theirs.apart === undefined ? null : [theirs.apart.wire, theirs.apart.segments],
        ])
  if (ourText !== theirText) return `${ourText}, the oracle: ${theirText}`
  if (ours instanceof GateError) return undefined
  // What a route may accept is in its one spelling too, and the merged path holds no doubt any more.
  for (const [wire, expected] of [
    [ours.wire, [...tuple(ours), null]],
    [ours.doubt?.apart?.wire, [...tuple(ours), apartOf(ours)]],
  ] as const) {
    if (wire === undefined) continue
    const again = attempt(() => parseRequestTarget(method, wire, ours.authority, options))
    const text =
      again instanceof GateError ? again.code : JSON.stringify([...tuple(again), apartOf(again)])
    if (text !== JSON.stringify(expected)) return `read again: ${text}`
  }
  return undefined
}

type Told = Pick<Target, 'wire' | 'segments' | 'query' | 'encodedSlash' | 'matrix'>

function tuple({ wire, segments, query, encodedSlash, matrix }: Told): unknown[] {
  return [wire, segments, query, encodedSlash, matrix]
}

function apartOf({ doubt }: Target): unknown {
  return doubt?.apart === undefined ? null : [doubt.apart.wire, doubt.apart.segments]
}

export function judgeHost(raw: string): Judgement {
  const ours = attempt(() => parseRequestTarget('GET', '/', raw, options))
  const theirs = meaningOfHost(raw)
  const ourText = ours instanceof GateError ? ours.code : `${ours.host} ${ours.authority}`
  const authority = theirs?.authority
  // The route table knows addresses without their brackets.
  const theirText = theirs === undefined ? 'ERR_HOST_MALFORMED' : `${theirs.host} ${authority}`
  return ourText === theirText ? undefined : `${ourText}, the oracle: ${theirText}`
}

const limits = { headers: 100, header_bytes: 24 * 1024 }

export function judgeHeaders(
  pairs: readonly (readonly [name: string, value: string])[],
  version: '1.0' | '1.1',
): Judgement {
  const req = {
    rawHeaders: pairs.flat(),
    httpVersionMajor: 1,
    httpVersionMinor: version === '1.1' ? 1 : 0,
  } as unknown as IncomingMessage
  const ours = attempt(() => parseHeaders(req, limits as Parameters<typeof parseHeaders>[1]))
  const reasons = reasonsAgainst(pairs, version, limits)
  if (ours instanceof GateError) {
    return reasons.has(ours.code)
      ? undefined
      : `${ours.code}, the oracle: ${[...reasons].join(', ') || 'fine'}`
  }
  if (reasons.size > 0) return `fine, the oracle: ${[...reasons].join(', ')}`
  if ((ours.repeated !== undefined) !== repeats(pairs)) return `repeated: ${ours.repeated}`
  if ((ours.nonAscii !== undefined) !== needsRoute(pairs)) return `non-ASCII: ${ours.nonAscii}`
  return judgeUpstream(pairs, ours, 'strip') ?? judgeUpstream(pairs, ours, 'keep')
}

function judgeUpstream(
  pairs: readonly (readonly [name: string, value: string])[],
  headers: RequestHeaders,
  authorization: 'strip' | 'keep',
): Judgement {
  const out = upstreamHeaders(passedOn(headers, {}, [], []), {
    forward: { identity: 'headers' },
    withoutAuthorization: authorization === 'strip',
    withoutProof: authorization === 'strip',
    route: 'r',
    principal: undefined,
    decisionId: 'd',
    clientAddress: 'c',
    forwardedFor: 'c, p',
    scheme: 'http',
    host: 'h',
    sentHost: 's',
    prefix: '',
    policyHeaders: [],
    removed: [],
  })
  const expected = [
    'host',
    's',
    ...passed(pairs, authorization === 'keep').flat(),
    ...['x-forwarded-for', 'c, p', 'x-forwarded-proto', 'http'],
    ...['x-forwarded-host', 'h', 'x-forwarded-port', '80', 'x-real-ip', 'c'],
    ...['x-dropgate-decision-id', 'd', 'x-dropgate-route', 'r'],
  ]
  return shown(out) === shown(expected)
    ? undefined
    : `sent ${shown(out)}, the oracle: ${shown(expected)}`
}

export function judgeToken(token: string): Judgement {
  const ours = attempt(() => parseTokenShape(token))
  const theirs = shapeOf(token)
  if (ours instanceof GateError || theirs === undefined) {
    const refused = ours instanceof GateError && ours.code === 'ERR_TOKEN_MALFORMED'
    return refused && theirs === undefined
      ? undefined
      : `${shown(ours)}, the oracle: ${shown(theirs)}`
  }
  const { header, claims } = ours
  const ourText = shown([header.alg, header.kid, header.typ, Object.keys(claims).sort()])
  const theirText = shown([theirs.alg, theirs.kid, theirs.typ, [...theirs.claims].sort()])
  return ourText === theirText ? undefined : `${ourText}, the oracle: ${theirText}`
}
