/**
 * Everything that the gate changes in Node's internals, or relies on beyond Node's documentation, in one file. Each function
 * says what Node does by itself and what it does instead; test/node-quirks.test.ts fails where a Node release changes that.
 * Run that test first with every new Node.
 *
 * One more is in listener/pieces.ts: the class of requests is an option of the server, and the parser hands each piece of a
 * body to its `push`, null at the end. test/listener/pieces.test.ts watches it.
 */
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/**
 * Stops reading from a connection on which a request is being answered.
 *
 * Node undoes `socket.pause()` at the end of every message it parses. The flag that it sets for clients that do not read
 * their answers is kept, and stops the parser too, behind the bytes that are read already.
 */
export function stopReading(socket: Duplex & { _paused?: boolean }): void {
  socket._paused = true
  socket.pause()
}

/** Ends `stopReading`: Node takes its flag off at `drain`. */
export function readOn(socket: Duplex): void {
  socket.emit('drain')
}

/**
 * The connection that carries a TLS connection; undefined for one that is not TLS.
 *
 * Node hands out the TLS socket only, and what was noted about the socket beneath it would be lost.
 */
export function socketBeneathTls(socket: Socket): Socket | undefined {
  return (socket as Socket & { _parent?: Socket | null })._parent ?? undefined
}

type Written = (error?: NodeJS.ErrnoException | null) => void

export interface WriteHooks {
  /** Called before each write to the system. */
  readonly onWrite: () => void
  /** A write failed: nothing happens to the socket before `tell` is called, and then what Node does. */
  readonly onFailed: (error: NodeJS.ErrnoException, tell: () => void) => void
}

/**
 * Comes between a socket and its writes.
 *
 * Node destroys a socket whose write fails, with all that was received and not yet read; it has no event before a write.
 */
export function hookWrites(socket: Socket, { onWrite, onFailed }: WriteHooks): void {
  // A stream passes the same function each time: one wrapper serves all its writes.
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
 * Does something else once the last answer of a connection is written.
 *
 * Node calls `destroySoon`, which closes the socket at once, unread bytes or not: the system then resets the connection, and
 * the reset overtakes the answer.
 * @param close Is given what Node would do.
 */
export function closeLastBy(socket: Socket, close: (destroySoon: () => void) => void): void {
  const destroySoon = socket.destroySoon.bind(socket)
  socket.destroySoon = () => close(destroySoon)
}

/**
 * Keeps a server from closing what it takes for idle, also when it is closed, while `busy` is true.
 *
 * Node takes a connection for idle whose answer is written but not yet sent, and breaks the answer off.
 */
export function keepIdleWhile(server: Server, busy: () => boolean): void {
  const closeIdle = server.closeIdleConnections.bind(server)
  server.closeIdleConnections = () => {
    if (!busy()) closeIdle()
  }
}

/**
 * Sets how many bytes of header a server parses, for connections from now on.
 *
 * Node takes the limit when the server is made and documents no way to change it, but reads it for each connection.
 */
export function setMaxHeaderSize(server: Server, bytes: number): void {
  ;(server as Server & { maxHeaderSize?: number }).maxHeaderSize = bytes
}

/**
 * Starts the timers and the list of connections of a server that gets its connections from another one.
 *
 * Node starts them when the server itself listens: without them slow heads have no end, and `closeAllConnections` closes none.
 */
export function startTimeouts(server: Server): void {
  server.emit('listening')
}

/**
 * Puts something between the connections of a server and its parser.
 *
 * Node's parser reads from the socket that is accepted; its only handle is the server's own listener for `connection`, which
 * takes any Duplex.
 * @param wrap Gives what the parser reads from.
 */
export function wrapConnections(server: Server, wrap: (socket: Socket) => Duplex): void {
  const parse = server.listeners('connection') as ((connection: Duplex) => void)[]
  server.removeAllListeners('connection')
  server.on('connection', (socket: Socket) => {
    const connection = wrap(socket)
    for (const each of parse) each.call(server, connection)
  })
}
