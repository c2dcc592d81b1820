/**
 * The gate that the corpus is sent to, and the walk of one case. The case is sent on a connection of its own and must meet
 * its expectation, in the answer and at the recorder. After it an honest request must be served on a fresh connection and
 * on one that was open before; on the same connection it is served, or nothing is.
 */
import { deepEqual, equal, ok } from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { type Arrived, Recorder } from '../harness/recorder.ts'
import { until } from '../harness/wait.ts'
import { Wire, type WireAnswer } from '../harness/wire.ts'
import { type Allowed, bare, type Case, host, type Refusal, type Refused } from './case.ts'

/** Every caller may do all but what is secret; routes that are not public need a token. */
const rego = `
decision if {
  allowed
  not secret
}

allowed if input.route.labels.visibility == "public"

allowed if input.principal.subject == "alice"

secret if "secret" in input.parsed_path

broken := 7 if input.attributes.request.http.path == "/broken"
`

const open = { auth: 'none', labels: { visibility: 'public' }, max_connections: 20 }

export class Boundary {
  readonly recorder = new Recorder()
  gate!: TestGate
  #folder = ''
  /** Open from the first case to the last. */
  #reused!: Wire
  #honest = 0

  static async start(): Promise<Boundary> {
    const boundary = new Boundary()
    await boundary.recorder.open()
    boundary.#folder = mkdtempSync(join(tmpdir(), 'dropgate-corpus-'))
    const bundle = join(boundary.#folder, 'gate.tar.gz')
    const entrypoints = ['gate/authz/decision', 'gate/authz/broken']
    writeFileSync(bundle, compile(`import rego.v1\n${rego}`, entrypoints))
    const { origin: upstream } = boundary.recorder
    boundary.gate = await TestGate.start({
      bundle,
      // One worker, so that every case meets the same connections to the upstream.
      config: { workers: 1, limits: { body_bytes: '1KiB', header_timeout: '1s' } },
      routes: [
        { name: 'public', host, path: '/public', upstream, ...open },
        { name: 'reports', host, path: '/reports', upstream, ...open, methods: ['GET'] },
        { name: 'orders', host, path: '/orders', upstream },
        {
          name: 'lenient',
          host,
          path: '/lenient',
          upstream,
          ...open,
          encoded_slashes: 'pass',
          matrix_parameters: 'pass',
          repeated_headers: 'join',
          forward: { pass: ['Remote-User', 'x-auth-user'] },
        },
        {
          name: 'merge',
          host,
          path: '/merge',
          upstream,
          ...open,
          empty_segments: 'merge',
          stray_percent: 'encode',
        },
        {
          name: 'apart',
          host,
          path: '/apart',
          upstream,
          ...open,
          empty_segments: 'pass',
          non_ascii_headers: 'pass',
        },
        { name: 'strict', host, path: '/apart/strict', upstream, ...open },
        {
          name: 'dav',
          host,
          path: '/dav',
          upstream,
          ...open,
          methods: ['GET', 'PUT', 'PROPFIND', 'MKCOL', 'COPY', 'MOVE', 'LOCK', 'REPORT'],
        },
        { name: 'broken', host, path: '/broken', upstream, ...open, decision: 'gate/authz/broken' },
        { name: 'closed', host, path: '/closed', ...open, upstream: 'http://127.0.0.1:1' },
        {
          name: 'full',
          host,
          path: '/full',
          upstream,
          ...open,
          max_connections: 1,
          timeouts: { headers: '1h' },
        },
        {
          name: 'late',
          host,
          path: '/late',
          upstream,
          ...open,
          max_connections: 64,
          timeouts: { headers: '50ms' },
        },
        { name: 'wild', host: '*.wild.example.com', path: '/public', upstream, ...open },
      ],
    })
    boundary.#reused = await Wire.open(boundary.gate.port)
    await boundary.honest()
    return boundary
  }

  async stop(): Promise<void> {
    this.#reused.destroy()
    await this.gate.stop()
    this.recorder.close()
    rmSync(this.#folder, { recursive: true })
  }

  /** @throws where the case does not meet its expectation, saying how. */
  async walk(each: Case): Promise<void> {
    await this.#alone(each)
    if (each.open !== true) await this.#glued(each)
    await this.honest()
    // A body that broke off takes its connection to the upstream with it.
    if (each.expectation.kind === 'broken')
      await until('the upstream is told', () => this.recorder.sockets.size < 8)
  }

  /** Honest requests on the connection that stays open and on a fresh one. */
  async honest(): Promise<void> {
    await this.#ask(this.#reused)
    const fresh = await Wire.open(this.gate.port)
    await this.#ask(fresh)
    fresh.destroy()
  }

  /** Its bytes and nothing after them. */
  async #alone(each: Case): Promise<void> {
    this.recorder.clear()
    const wire = await Wire.open(this.gate.port)
    let closes: boolean
    try {
      wire.write(each.bytes)
      closes = await this.#meetExpectation(each, wire)
      if (closes) await wire.end()
      else await this.#ask(wire)
      equal(wire.rest, '', 'nothing more came')
    } finally {
      wire.destroy()
    }
    this.#settled(each, closes ? 0 : 1)
  }

  /** An honest request right behind it: the gate either serves it or never reads it. */
  async #glued(each: Case): Promise<void> {
    this.recorder.clear()
    const wire = await Wire.open(this.gate.port)
    let closes: boolean
    try {
      const honest = this.#next()
      wire.write(each.bytes + honest.bytes)
      closes = await this.#meetExpectation(each, wire)
      if (closes) await wire.end()
      else equal((await wire.answer())?.body, honest.line, 'the request behind it')
      equal(wire.rest, '', 'nothing more came')
    } finally {
      wire.destroy()
    }
    this.#settled(each, closes ? 0 : 1)
  }

  /** @returns whether nothing after it on this connection may be read. */
  async #meetExpectation(
    { bytes, expectation, open: unfinished }: Case,
    wire: Wire,
  ): Promise<boolean> {
    const method = bytes.trimStart().split(' ', 1)[0]!
    if (expectation.kind === 'broken') {
      if (unfinished === true) {
        await until('the upstream has its head', () => this.recorder.sockets.size > 0)
        wire.destroy()
        return true
      }
      const answer = await wire.answer(method)
      if (answer !== undefined) equal(answer.status, 400)
      return true
    }
    const answer = await wire.answer(method)
    ok(answer !== undefined, 'it is answered')
    const { closes } =
      expectation.kind === 'allowed' ? expectation : findRefusal(answer, expectation, method)
    if (expectation.kind === 'allowed') {
      equal(answer.status, 200, `${answer.status} ${answer.code}`)
      deepEqual(answer.interim, expectation.interim)
      if (method !== 'HEAD') equal(answer.body, expectation.line)
    }
    const says = answer.headers.find(([name]) => name === 'connection')?.[1]
    if (closes) equal(says, 'close', 'it says that it closes')
    else ok(says !== 'close', 'it says that it stays')
    return closes
  }

  /** The upstream got what the expectation says, then `honest` requests, and nothing else in any form. */
  #settled({ expectation }: Case, honest: number): void {
    const { arrived, broken, faults } = this.recorder
    const expected = (expectation.kind === 'allowed' ? 1 : 0) + honest
    deepEqual(faults, [])
    equal(
      arrived.length,
      expected,
      `${arrived.map(({ line }) => line).join(', ')} reached the upstream`,
    )
    if (expectation.kind === 'allowed') this.#checkArrival(arrived[0]!, expectation)
    if (expectation.kind !== 'broken') equal(broken.length, 0, `${broken[0]} reached the upstream`)
    for (const { line } of arrived.slice(expectation.kind === 'allowed' ? 1 : 0)) {
      equal(line, `GET /public/honest-${this.#honest} HTTP/1.1`)
    }
  }

  #checkArrival(arrived: Arrived, expectation: Allowed): void {
    equal(arrived.line, expectation.line)
    if (expectation.framing === 'chunks')
      ok(arrived.framing !== 'none' || expectation.body === '', 'the body has an end')
    else equal(arrived.framing, expectation.framing)
    equal(arrived.body, expectation.body)
    const headers = arrived.headers.map(([name, value]) => `${name}: ${value}`)
    const ours = [
      `host: ${expectation.host}`,
      'connection: keep-alive',
      'x-forwarded-for: 127.0.0.1',
      'x-real-ip: 127.0.0.1',
      `x-forwarded-port: ${/:([0-9]+)$/.exec(expectation.host)?.[1] ?? '80'}`,
      'x-forwarded-proto: http',
      `x-forwarded-host: ${expectation.host}`,
      `x-dropgate-route: ${expectation.route}`,
      ...(arrived.framing === 'length' ? [`content-length: ${expectation.body.length}`] : []),
      ...(arrived.framing === 'chunked' ? ['transfer-encoding: chunked'] : []),
    ]
    const id = headers.filter((each) => /^x-dropgate-decision-id: [0-9a-f-]{36}$/.test(each))
    equal(id.length, 1, 'one decision id')
    deepEqual(headers.sort(), [...expectation.headers, ...ours, ...id].sort())
  }

  /** An honest request that is served as it is. */
  async #ask(wire: Wire): Promise<void> {
    const { bytes, line } = this.#next()
    wire.write(bytes)
    equal((await wire.answer())?.body, line, 'an honest request')
  }

  #next(): { bytes: string; line: string } {
    const line = `GET /public/honest-${++this.#honest} HTTP/1.1`
    return { bytes: bare(line, `Host: ${host}`), line }
  }
}

/** The refusal that this answer is. HEAD gets no body, so there the status tells. */
function findRefusal(answer: WireAnswer, { answers }: Refused, method: string): Refusal {
  const found = answers.find(
    ({ status, code }) => status === answer.status && (method === 'HEAD' || code === answer.code),
  )
  const expected = answers.map(({ status, code }) => `${status} ${code}`).join(' or ')
  ok(found !== undefined, `${answer.status} ${answer.code}, not ${expected}`)
  const type = answer.headers.find(([name]) => name === 'content-type')?.[1]
  equal(type, 'application/problem+json')
  return found
}
