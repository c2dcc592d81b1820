/**
 * Answers bytes that never become a request: those that the parser refuses, and handshakes that the gate does not
 * accept. The answer is written on the bare socket and the connection is closed, so that nothing after it is read as
 * another request.
 */
import type { Duplex } from 'node:stream'
import { destroyAfter } from '../domain/destroy-after.ts'
import { methods } from '../domain/http.ts'
import { problemOf } from '../domain/problem.ts'
import { type Code, GateError } from '../errors.ts'

/** Error codes of the parser (llhttp, Node) -> codes of the gate. */
const parserCodes: Readonly<Record<string, Code>> = {
  HPE_HEADER_OVERFLOW: 'ERR_HEADERS_TOO_LARGE',
  HPE_CHUNK_EXTENSIONS_OVERFLOW: 'ERR_BODY_TOO_LARGE',
  HPE_INVALID_METHOD: 'ERR_METHOD_UNKNOWN',
  HPE_INVALID_URL: 'ERR_TARGET_MALFORMED',
  HPE_INVALID_HEADER_TOKEN: 'ERR_HEADER_MALFORMED',
  ERR_HTTP_REQUEST_TIMEOUT: 'ERR_REQUEST_TIMEOUT',
}

export function parserError(error: Error): GateError {
  const { code = '' } = error as { code?: string }
  return new GateError(parserCodes[code] ?? 'ERR_FRAMING', undefined, { cause: error })
}

const lingerMs = 10_000

const statusText: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  413: 'Content Too Large',
  426: 'Upgrade Required',
  431: 'Request Header Fields Too Large',
  501: 'Not Implemented',
}

/** Headers that a status requires (RFC 9110 sections 15.5.6 and 15.5.22, RFC 6455 section 4.4). */
const moreHeaders: Readonly<Record<number, string>> = {
  405: `allow: ${methods.join(', ')}\r\n`,
  426: 'upgrade: websocket\r\nsec-websocket-version: 13\r\n',
}

/** Answers and closes. Only for a socket on which no answer is under way. */
export function refuseOn(socket: Duplex, error: GateError, decisionId: string): void {
  if (!socket.writable) {
    socket.destroy()
    return
  }
  // Node has removed its own 'error' listener for an upgrade; without one, a client that resets now would end the
  // worker.
  socket.on('error', () => {})
  // Destroy the socket after a while, even if the client does not read the answer.
  destroyAfter(socket, lingerMs)
  const body = problemOf(error, decisionId)
  const more = moreHeaders[error.status] ?? ''
  socket.end(
    `HTTP/1.1 ${error.status} ${statusText[error.status] ?? 'Error'}\r\ncontent-type: application/problem+json\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\ncache-control: no-store\r\n${more}connection: close\r\n\r\n${body}`,
    () => socket.destroy(),
  )
}
