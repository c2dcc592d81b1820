/**
 * Bodies in small pieces: joined within a turn of the event loop, every byte in its place, and all that Node does with a
 * request's body still works. What these tests see of Node (the class of requests, `push`) is what src/listener/pieces.ts
 * leans on.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { JoinedRequest, Joiner, joinBytes } from '../../src/listener/pieces.ts'
import { pause, seeded, seedOf, until } from '../harness/wait.ts'

const seed = seedOf()
t.comment(`seed ${seed}`)
const random = seeded(seed)
const below = (n: number): number => Math.floor(random() * n)
const noise = Buffer.from(Array.from({ length: 100_000 }, () => below(256)))
/** A buffer of its own. */
const bytes = (n: number): Buffer => {
  const at = below(noise.length - n)
  const piece = Buffer.allocUnsafeSlow(n)
  noise.copy(piece, 0, at, at + n)
  return piece
}
const endOfTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

t.test('a joiner gives on the same bytes, in few pieces, by the end of the turn', async (t) => {
  const sizes = [1, 1, 1, 2, 16, 100, 4096, 8191, 8192, 8193, joinBytes - 1, joinBytes, 50_000]
  for (let round = 0; round < 300; round++) {
    const given: Buffer[] = []
    const joiner = new Joiner((piece) => given.push(piece))
    for (let turn = 0; turn < 3; turn++) {
      given.length = 0
      const kind = below(sizes.length)
      const sent = Array.from({ length: below(40) }, () =>
        bytes(sizes[below(2) === 0 ? kind : below(sizes.length)]!),
      )
      for (const piece of sent) {
        joiner.add(piece)
        if (joiner.held >= joinBytes) t.fail(`${joiner.held} bytes held`)
      }
      // The end of the body, or of the turn.
      if (below(2) === 0) joiner.flush()
      else await endOfTurn()
      const what = `seed ${seed}, round ${round}: ${sent.map(({ length }) => length)}`
      if (!Buffer.concat(given).equals(Buffer.concat(sent))) t.fail(`other bytes, ${what}`)
      if (joiner.held !== 0) t.fail(`bytes held back, ${what}`)
      for (const [i, piece] of given.entries()) {
        const next = given[i + 1]
        if (next !== undefined && piece.length + next.length <= joinBytes)
          t.fail(`two that fit into one, ${what}`)
        const itself = sent.some((each) => each.buffer === piece.buffer)
        if (piece.length > joinBytes && !itself) t.fail(`a large piece was copied, ${what}`)
        if (sent.length === 1 && piece !== sent[0]) t.fail(`a lone piece was copied, ${what}`)
        // What waits behind a slow upstream takes the memory that it counts for.
        if (!itself && piece.buffer.byteLength > 2 * piece.length)
          t.fail(`${piece.length} bytes in a buffer of ${piece.buffer.byteLength}, ${what}`)
      }
    }
  }
  t.pass('300 rounds')
})

t.test('two bodies joined in one turn do not meet', async (t) => {
  const given: [Buffer[], Buffer[]] = [[], []]
  const joiners = given.map((to) => new Joiner((piece) => to.push(piece)))
  for (let turn = 0; turn < 3; turn++) {
    for (let i = 0; i < 1000; i++) joiners[i % 2]!.add(Buffer.from([i % 2]))
    await endOfTurn()
  }
  for (const [i, to] of given.entries())
    t.ok(Buffer.concat(to).equals(Buffer.alloc(1500, i)), `${i}`)
})

t.test('while a piece is given on its end may come, or more bytes', async (t) => {
  const given: string[] = []
  const joiner: Joiner = new Joiner((piece) => {
    given.push(piece.toString())
    joiner.flush()
    if (given.length === 1) joiner.add(Buffer.from('c'))
  })
  joiner.add(Buffer.from('a'))
  joiner.add(Buffer.from('b'))
  joiner.flush()
  t.same(given, ['ab'])
  await endOfTurn()
  t.same(given, ['ab', 'c'])
})

/** A server of Node's with our requests, and what `serve` does with each. */
async function serving(
  t: Test,
  serve: (req: IncomingMessage, res: ServerResponse) => void,
): Promise<() => Promise<Socket>> {
  const server = createServer({ IncomingMessage: JoinedRequest }, serve)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return () =>
    new Promise((resolve) => {
      const { port } = server.address() as AddressInfo
      const socket = connect(port, '127.0.0.1', () => resolve(socket))
      socket.on('error', () => {})
      t.teardown(() => socket.destroy())
    })
}

const head = 'POST / HTTP/1.1\r\nHost: a\r\n'
const chunkedHead = `${head}Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n`

function chunk(piece: Buffer): Buffer {
  return Buffer.concat([
    Buffer.from(`${piece.length.toString(16)}\r\n`),
    piece,
    Buffer.from('\r\n'),
  ])
}

t.test('Node hands the pieces to us: thousands of chunks of one read are few pieces', async (t) => {
  const seen: { pieces: number; body: string }[] = []
  const dial = await serving(t, (req, res) => {
    t.ok(req instanceof JoinedRequest)
    let pieces = 0
    let body = ''
    req.on('data', (piece) => {
      pieces++
      body += piece
    })
    req.on('end', () => {
      seen.push({ pieces, body })
      res.end()
    })
  })
  const chunks = 5000
  const socket = await dial()
  socket.write(`${chunkedHead + '1\r\nx\r\n'.repeat(chunks)}0\r\n\r\n`)
  await until('it has come', () => seen.length === 1)
  const [{ pieces, body }] = seen as [{ pieces: number; body: string }]
  t.equal(body, 'x'.repeat(chunks))
  // One for each read: 30 kB, however the machine cuts them.
  t.ok(pieces <= chunks / 10, `${pieces} pieces of ${chunks} chunks`)
})

t.test(
  'generated bodies arrive whole, with trailers, readers that pause or come late, and a request behind',
  async (t) => {
    interface Read {
      readonly body: Buffer
      readonly trailers: NodeJS.Dict<string>
    }
    // In the order of the requests: Node hands the second on while the first is read.
    const read: (Read | undefined)[] = []
    let how = 0
    const dial = await serving(t, async (req, res) => {
      const pieces: Buffer[] = []
      const mine = how
      const place = read.push(undefined) - 1
      // As behind a verification: what has come by then has waited.
      if (mine === 1) await pause(5)
      if (mine === 2) for (let i = 0; i < 3; i++) await endOfTurn()
      req.on('data', (piece) => {
        pieces.push(piece)
        if (mine !== 3) return
        req.pause()
        setImmediate(() => req.resume())
      })
      req.on('end', () => {
        read[place] = { body: Buffer.concat(pieces), trailers: req.trailers }
        res.end('ok')
      })
    })
    for (let round = 0; round < 60; round++) {
      how = round % 4
      read.length = 0
      const sizes = [1, 1 + below(20), 1 + below(5000), 1 + below(40_000)]
      const pieces = Array.from({ length: 1 + below(50) }, () => bytes(sizes[below(4)]!))
      const body = Buffer.concat(pieces)
      const chunked = below(3) > 0
      const first = chunked
        ? [Buffer.from(chunkedHead), ...pieces.map(chunk), Buffer.from('0\r\nX-Sum: 7\r\n\r\n')]
        : [Buffer.from(`${head}Content-Length: ${body.length}\r\n\r\n`), body]
      const wire = Buffer.concat([...first, Buffer.from(`${chunkedHead}1\r\nz\r\n0\r\n\r\n`)])
      const socket = await dial()
      for (let at = 0; at < wire.length; ) {
        const to = at + 1 + below(below(2) === 0 ? 3000 : 200_000)
        socket.write(wire.subarray(at, to))
        at = to
        if (below(3) === 0) await endOfTurn()
      }
      await until(
        'both have come',
        () => read.length === 2 && read.every((each) => each !== undefined),
      )
      const what = `seed ${seed}, round ${round}`
      t.ok(read[0]!.body.equals(body), `${what}: ${body.length} bytes`)
      t.same(read[0]!.trailers, chunked ? { 'x-sum': '7' } : {}, what)
      t.equal(read[1]!.body.toString(), 'z', what)
      socket.destroy()
    }
  },
)

t.test('a body that breaks off, or goes wrong, never ends', async (t) => {
  let ended = 0
  let closed = 0
  let complete = 0
  const dial = await serving(t, (req) => {
    req.on('data', () => {})
    req.on('error', () => {})
    req.on('end', () => ended++)
    req.on('close', () => {
      closed++
      if (req.complete) complete++
    })
  })
  const rest = ['', '1\r\n', '1\r\nx', 'zz\r\n', '1\r\nxx\r\n', '0\r\n']
  for (const [i, last] of rest.entries()) {
    const socket = await dial()
    socket.write(chunkedHead + '1\r\nx\r\n'.repeat(below(1000)) + last)
    // In the turn in which the pieces come, or later.
    if (i % 2 === 0) await pause(5)
    if (below(2) === 0) socket.end()
    else socket.destroy()
  }
  await until('all are gone', () => closed === rest.length)
  t.same([ended, complete], [0, 0])
})

t.test('a reader that does not read holds its client up, and loses nothing', async (t) => {
  let req!: IncomingMessage
  let begun = false
  const dial = await serving(t, (request) => {
    req = request
    begun = true
  })
  for (const size of [1, 100, 5000, 30_000]) {
    begun = false
    const socket = await dial()
    socket.write(chunkedHead)
    const one = chunk(Buffer.alloc(size, 'x'))
    const lot = Buffer.alloc(one.length * Math.ceil(500_000 / one.length))
    for (let at = 0; at < lot.length; at += one.length) one.copy(lot, at)
    let written = 0
    // Until the kernel's buffers are full too.
    await until('the client is held up', async () => {
      if (socket.writableLength === 0) {
        socket.write(lot)
        written += lot.length
      }
      const before = begun ? req.socket.bytesRead : 0
      await pause(50)
      return socket.writableLength > 0 && before > 0 && req.socket.bytesRead === before
    })
    // What Node holds of a request, and the two reads of 64 KiB that may be under way when it is full.
    const most = req.readableHighWaterMark + 2 * 65_536
    t.ok(req.readableLength <= most, `${req.readableLength} bytes of ${size} each`)
    let read = 0
    req.on('data', (piece) => {
      read += piece.length
    })
    const done = new Promise((resolve) => req.once('end', resolve))
    socket.write('0\r\n\r\n')
    await done
    t.equal(read, (written / one.length) * size)
    socket.destroy()
  }
})
