/**
 * Everything that the gate changes in Node's internals, or relies on beyond Node's documentation. Each function says
 * what Node does by itself and what it does instead. test/node-quirks.test.ts fails when a release of Node changes
 * that: run it first with every new Node.
 *
 * One more is in listener/pieces.ts: the class of requests is an option of the server, and the parser passes each piece
 * of a body to the request's `push`, and null at the end. test/listener/pieces.test.ts checks it.
 */
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/**
 * Stops reading from a connection on which a request is being answered.
 *
 * `socket.pause()` is not enough: Node undoes it at the end of every message that it parses. The flag that Node sets
 * for clients that do not read their answers is not undone, and it pauses the parser too, after the bytes that were
 * read already.
 */
export function stopReading(socket: Duplex & { _paused?: boolean }): void {
  socket._paused = true
  socket.pause()
}

/** Ends `stopReading`: Node removes its flag at the event `drain`. */
export function readOn(socket: Duplex): void {
  socket.emit('drain')
}

/**
 * The raw connection below a TLS connection; undefined for a connection without TLS.
 *
 * Node passes on only the TLS socket, so what was noted for the raw socket could not be found otherwise.
 */
export function socketBeneathTls(socket: Socket): Socket | undefined {
  return (socket as Socket & { _parent?: Socket | null })._parent ?? undefined
}

type Written = (error?: NodeJS.ErrnoException | null) => void

export interface WriteHooks {
  /** Called before each write to the operating system. */
  readonly onWrite: () => void
  /** Called when a write has failed. The socket is not touched before `tell` is called; then Node handles the error. */
  readonly onFailed: (error: NodeJS.ErrnoException, tell: () => void) => void
}

/**
 * Runs callbacks before each write of a socket and after a failed one.
 *
 * Node destroys a socket whose write fails, together with the bytes that were received and not yet read, and has no
 * event before a write.
 */
export function hookWrites(socket: Socket, { onWrite, onFailed }: WriteHooks): void {
  // A stream passes the same function each time, so one wrapper serves all its writes.
  let last: Written | undefined
  let lastHooked: Written = () => {}
  const hooked = (done: Written): Written => {
    if (done === last) return lastHooked
    last = done
    lastHooked = (error) => {
      if (error == null) done(error)
      else onFailed(error, () => done(error))
    }
    return lastHooked
  }
  const write = socket._write.bind(socket)
  const writev = socket._writev!.bind(socket)
  socket._write = (chunk, encoding, done) => {
    onWrite()
    write(chunk, encoding, hooked(done))
  }
  socket._writev = (chunks, done) => {
    onWrite()
    writev(chunks, hooked(done))
  }
}

/**
 * Lets a function change the bytes that a socket has received, before anything reads them.
 *
 * Node passes each piece that arrives to the `push` of the socket, and null at the end, and has no event before a read.
 * @param change Returns what is passed on; empty bytes to pass nothing on.
 */
export function hookReads(socket: Socket, change: (bytes: Buffer | null) => Buffer): void {
  const push = socket.push.bind(socket)
  socket.push = (bytes: Buffer | null) => {
    const rest = change(bytes)
    if (bytes !== null) return rest.length === 0 || push(rest)
    if (rest.length > 0) push(rest)
    return push(null)
  }
}

/**
 * Replaces what happens after the last answer of a connection is written.
 *
 * Node calls `destroySoon`, which closes the socket at once, even with unread bytes. The operating system then resets
 * the connection, and the client may lose the answer.
 * @param close Called instead, with Node's function.
 */
export function closeLastBy(socket: Socket, close: (destroySoon: () => void) => void): void {
  const destroySoon = socket.destroySoon.bind(socket)
  socket.destroySoon = () => close(destroySoon)
}

/**
 * Keeps a server from closing connections that it considers idle, also when the server is closed, while `busy` is true.
 *
 * Node considers a connection idle when its answer is written but not yet sent, and would cut the answer off.
 */
export function keepIdleWhile(server: Server, busy: () => boolean): void {
  const closeIdle = server.closeIdleConnections.bind(server)
  server.closeIdleConnections = () => {
    if (!busy()) closeIdle()
  }
}

/**
 * Sets how many bytes of headers a server parses, for later connections.
 *
 * Node takes the limit when the server is made and documents no way to change it, but reads it for each connection.
 */
export function setMaxHeaderSize(server: Server, bytes: number): void {
  ;(server as Server & { maxHeaderSize?: number }).maxHeaderSize = bytes
}

/**
 * Starts the timers and the connection list of a server that gets its connections from another server.
 *
 * Node starts them only when the server itself listens. Without them, slow headers have no deadline, and
 * `closeAllConnections` closes nothing.
 */
export function startTimeouts(server: Server): void {
  server.emit('listening')
}

/**
 * Wraps each connection of a server before the parser reads from it.
 *
 * Node's parser reads from the accepted socket. The only way to replace that socket is the server's own listener for
 * `connection`, which accepts any Duplex.
 * @param wrap Returns the stream that the parser reads from.
 */
export function wrapConnections(server: Server, wrap: (socket: Socket) => Duplex): void {
  const parse = server.listeners('connection') as ((connection: Duplex) => void)[]
  server.removeAllListeners('connection')
  server.on('connection', (socket: Socket) => {
    const connection = wrap(socket)
    for (const each of parse) each.call(server, connection)
  })
}
