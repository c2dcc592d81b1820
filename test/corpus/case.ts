/** What a case of the corpus is: the bytes of a request, and what must come of it by the rules of docs/boundary.md. */

export type Expectation = Refused | Allowed | Broken

export interface Refused {
  readonly kind: 'refused'
  /** One of these: more than one where a request is wrong in more than one way. */
  readonly answers: readonly Refusal[]
}

export interface Refusal {
  readonly status: number
  readonly code: string
  /** Nothing after it on this connection is read. */
  readonly closes: boolean
}

/** The head was allowed, the body then broke its framing: closed, and no upstream ever holds it as complete. */
export interface Broken {
  readonly kind: 'broken'
}

export interface Allowed {
  readonly kind: 'allowed'
  readonly line: string
  /** `Host` and `X-Forwarded-Host` as the upstream gets them. */
  readonly host: string
  readonly route: string
  /** `name: value` of what comes from the client, in any order; besides it only what the gate itself writes. */
  readonly headers: readonly string[]
  /** A body that was sent in chunks may go on with a length where it was whole by then. */
  readonly framing: 'none' | 'length' | 'chunks'
  readonly body: string
  readonly closes: boolean
  readonly interim: readonly number[]
}

export interface Case {
  /** Its number in docs/boundary.md: R1 to R34, M7 to M12, or `1.4`. */
  readonly rule: string
  readonly name: string
  readonly bytes: string
  readonly expectation: Expectation
  /** Waits for a deadline of the gate: many run at once. */
  readonly slow?: boolean
  /** Has no end of its own, so that nothing can be glued behind it. */
  readonly open?: boolean
}

export const host = 'api.example.com'

/** A request's head with `Host`. */
export const head = (line: string, ...headers: string[]): string =>
  bare(line, `Host: ${host}`, ...headers)

/** A request's head with nothing that is not given. */
export const bare = (line: string, ...headers: string[]): string =>
  `${[line, ...headers].join('\r\n')}\r\n\r\n`

export const get = (...headers: string[]): string => head('GET /public HTTP/1.1', ...headers)

/** @param closes Unless told otherwise, whatever leaves the framing in doubt ends the connection. */
export function refused(status: number, code: string, closes = inDoubt(status)): Refused {
  return { kind: 'refused', answers: [{ status, code, closes }] }
}

export const inDoubt = (status: number): boolean =>
  [400, 408, 413, 414, 417, 431, 501].includes(status)

export function allowed(line: string, over: Partial<Allowed> = {}): Allowed {
  const { framing = over.body === undefined ? 'none' : 'length', body = '' } = over
  const none = { kind: 'allowed', host, route: 'public', headers: [], closes: false, interim: [] }
  return { ...none, ...over, line, framing, body } as Allowed
}

export const broken: Broken = { kind: 'broken' }
