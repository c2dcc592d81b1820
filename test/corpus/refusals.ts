/**
 * Every kind of refusal over and over, and what it leaves behind: nothing. A kind is a code with what the connection does
 * after it; the corpus has most of them, tokens and upstreams the rest.
 */
import { readdirSync } from 'node:fs'
import { until } from '../harness/wait.ts'
import { Wire } from '../harness/wire.ts'
import type { Boundary } from './boundary.ts'
import { type Case, head } from './case.ts'
import { framingCases } from './framing.ts'
import { headerCases } from './headers.ts'
import { targetCases } from './targets.ts'

export interface Kind {
  readonly name: string
  readonly bytes: string
  /** Undefined: the client leaves without waiting for an answer. */
  readonly code: string | undefined
  /** Each waits for a deadline, so there are fewer of them. */
  readonly slow?: boolean
}

export interface Left {
  readonly descriptors: number
  readonly upstreamConnections: number
  readonly live: number
  readonly memoryMiB: number
}

const concurrency = 16

/** @throws when the gate holds on to what it refused: a place at the upstream, an exchange, a descriptor. */
export class Refusals {
  readonly kinds: readonly Kind[]
  readonly #boundary: Boundary
  readonly #held: Wire

  private constructor(boundary: Boundary, kinds: readonly Kind[], held: Wire) {
    this.#boundary = boundary
    this.kinds = kinds
    this.#held = held
  }

  static async prepare(boundary: Boundary): Promise<Refusals> {
    const { recorder, gate } = boundary
    recorder.replies.set('/full/held', '')
    recorder.replies.set('/late', '')
    recorder.replies.set('/public/nonsense', 'HTTP/1.1 200 OK\r\nx: \0\r\n\r\n')
    const revoker = await gate.revoker()
    await revoker.query("INSERT INTO dropgate.revocations (subject) VALUES ('mallory')")
    const tokens = await tokenKinds(boundary)
    await until('the revocation', async () => {
      const token = await gate.issuer.token('mallory')
      return (
        (await gate.ask('/orders', token, { headers: { host: 'api.example.com' } })).status === 401
      )
    })
    const held = await Wire.open(gate.port)
    held.write(head('GET /full/held HTTP/1.1'))
    await until('the place is taken', () =>
      recorder.arrived.some(({ line }) => line.includes('held')),
    )
    return new Refusals(boundary, [...corpusKinds(), ...tokens, ...upstreamKinds], held)
  }

  /** Sends `count` of each kind. */
  async run(count: number): Promise<number> {
    let sent = 0
    for (const kind of this.kinds) {
      let left = kind.slow === true ? Math.ceil(count / 100) : count
      sent += left
      const lanes = Array.from({ length: concurrency }, async () => {
        let wire: Wire | undefined
        while (left-- > 0) wire = await this.#once(kind, wire)
        wire?.destroy()
      })
      await Promise.all(lanes)
      this.#boundary.recorder.clear()
      await this.#boundary.honest()
    }
    return sent
  }

  async #once(kind: Kind, open: Wire | undefined): Promise<Wire | undefined> {
    const wire = open ?? (await Wire.open(this.#boundary.gate.port))
    wire.write(kind.bytes)
    if (kind.code === undefined) {
      await new Promise(setImmediate)
      wire.socket.resetAndDestroy()
      return undefined
    }
    const answer = await wire.answer()
    if (answer?.code !== kind.code)
      throw new Error(`${kind.name}: ${answer?.status} ${answer?.code}`)
    if (answer.headers.some(([name, value]) => name === 'connection' && value === 'close')) {
      await wire.end()
      return undefined
    }
    return wire
  }

  /** What is held when nothing is under way any more, but for the one request that takes the place of `full`. */
  async left(): Promise<Left> {
    const { gate, recorder } = this.#boundary
    const live = (): number =>
      (gate.gate.status() as { workers: { live_exchanges: number }[] }).workers[0]!.live_exchanges
    await until('one exchange is left', () => live() === 1)
    await this.#boundary.honest()
    // A closed socket's descriptor goes a moment later.
    let descriptors = Number.POSITIVE_INFINITY
    await until('descriptors settle', async () => {
      const before = descriptors
      await new Promise((resolve) => setTimeout(resolve, 50))
      descriptors = readdirSync('/proc/self/fd').length
      return descriptors === before
    })
    return {
      descriptors,
      upstreamConnections: recorder.sockets.size,
      live: live(),
      memoryMiB: Math.round(process.memoryUsage.rss() / 2 ** 20),
    }
  }

  close(): void {
    this.#held.destroy()
  }
}

/** The shortest case of each code, apart for those that close and those that stay. */
function corpusKinds(): Kind[] {
  const found = new Map<string, Case>()
  for (const each of [...framingCases, ...headerCases, ...targetCases]) {
    if (each.slow === true) continue
    if (each.expectation.kind === 'allowed') continue
    const [answer] = each.expectation.kind === 'refused' ? each.expectation.answers : []
    const key =
      answer === undefined
        ? `broken ${each.open === true}`
        : `${answer.code} ${answer.closes ? 'closes' : 'stays'}`
    const known = found.get(key)
    if (known === undefined || known.bytes.length > each.bytes.length) found.set(key, each)
  }
  return [...found].map(([name, { bytes, expectation }]) => ({
    name,
    bytes,
    code: expectation.kind === 'refused' ? expectation.answers[0]!.code : undefined,
  }))
}

async function tokenKinds({ gate }: Boundary): Promise<Kind[]> {
  const { issuer } = gate
  const es256 = { header: { alg: 'RS256' } }
  const [, claims = '', signature = ''] = (await issuer.token('a')).split('.')
  const other = Buffer.from(
    JSON.stringify({ kid: issuer.kid, typ: 'at+jwt', ...es256.header }),
  ).toString('base64url')
  const tokens: [code: string, token: string][] = [
    ['ERR_TOKEN_ALGORITHM', `${other}.${claims}.${signature}`],
    ['ERR_TOKEN_KEY_UNKNOWN', await issuer.token('a', { header: { kid: 'nobody' } })],
    ['ERR_TOKEN_SIGNATURE', await issuer.token('a', { foreign: true })],
    ['ERR_TOKEN_TYPE', await issuer.token('a', { header: { typ: 'JWT' } })],
    ['ERR_TOKEN_CLAIMS', await issuer.token('a', { claims: { exp: null } })],
    ['ERR_TOKEN_AUDIENCE', await issuer.token('a', { claims: { aud: 'x' } })],
    [
      'ERR_TOKEN_BOUND',
      await issuer.token('a', { claims: { cnf: { 'x5t#S256': 'A'.repeat(43) } } }),
    ],
    ['ERR_TOKEN_EXPIRED', await issuer.token('a', { claims: { iat: 1, exp: 2 } })],
    ['ERR_REVOKED', await issuer.token('mallory')],
    ['ERR_POLICY_DENIED', await issuer.token('bob')],
  ]
  return tokens.map(([code, token]) => ({
    name: `${code} token`,
    bytes: head('GET /orders HTTP/1.1', `Authorization: Bearer ${token}`),
    code,
  }))
}

const upstreamKinds: readonly Kind[] = [
  { name: 'ERR_POLICY_FAILED', bytes: head('GET /broken HTTP/1.1'), code: 'ERR_POLICY_FAILED' },
  { name: 'ERR_OVERLOADED', bytes: head('GET /full HTTP/1.1'), code: 'ERR_OVERLOADED' },
  { name: 'ERR_UPSTREAM_UNREACHABLE', bytes: head('GET /closed HTTP/1.1'), code: 'ERR_UPSTREAM_UNREACHABLE' },
  { name: 'ERR_UPSTREAM_MALFORMED', bytes: head('GET /public/nonsense HTTP/1.1'), code: 'ERR_UPSTREAM_MALFORMED' },
  { name: 'ERR_UPSTREAM_TIMEOUT', bytes: head('GET /late HTTP/1.1'), code: 'ERR_UPSTREAM_TIMEOUT', slow: true },
  { name: 'ERR_REQUEST_TIMEOUT', bytes: 'GET /public HTTP/1.1\r\nX-A: ', code: 'ERR_REQUEST_TIMEOUT', slow: true },
  { name: 'gone before the answer', bytes: head('GET /late HTTP/1.1'), code: undefined },
] // biome-ignore format: a table
