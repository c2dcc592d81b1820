/** What real applications do that a relay must bear: slow readers, quiet streams, interim answers, trailers. */
import { writeFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { compile } from '../harness/bundle.ts'
import { type Answer, TestGate } from '../harness/gate.ts'
import { ok, type Seen } from '../harness/upstream.ts'
import { pause, until } from '../harness/wait.ts'
import { Wire } from '../harness/wire.ts'

const open = { auth: 'none', labels: { visibility: 'public' } }
const gate = await TestGate.start({
  config: {
    workers: 1,
    limits: { read_idle: '0s', body_idle: '0s', policy_body_timeout: '0s' },
  },
  bundle: null,
  prepare: (folder) =>
    writeFileSync(
      join(folder, 'bundles', 'gate.tar.gz'),
      compile(
        'default decision := false\n\ndecision := {"allowed": true, "response_headers_to_add": {"x-checksum": "own"}} if {\n\tinput.parsed_path[1] == "set"\n} else if input.attributes.request.http.method\n\ndefault reads := false\n\nreads if input.parsed_body.ok',
        ['gate/authz/decision', 'gate/authz/reads'],
      ),
    ),
  routes: [
    { name: 'public', path: '/public', ...open },
    { name: 'patient', path: '/public/patient', ...open, timeouts: { headers: '2s', idle: '20s' } },
    { name: 'deaf', path: '/public/deaf', ...open, timeouts: { headers: '20s', idle: '600ms' } },
    { name: 'endless', path: '/public/endless', ...open, timeouts: { connect: '100ms', headers: '0s', idle: '0s' } },
    { name: 'reads', path: '/public/reads', ...open, decision: 'gate/authz/reads' },
    { name: 'streams', path: '/public/streams', ...open, max_connections: 4 },
    { name: 'few', path: '/public/few', ...open, max_streams: 2 },
    { name: 'long', path: '/public/long', ...open, max_connections: 1 },
    { name: 'aged', path: '/public/aged', ...open, max_connection_age: '400ms' },
  ],
}) // biome-ignore format: a table
const clients = new Set<Wire>()
t.teardown(async () => {
  for (const client of clients) client.destroy()
  await gate.stop()
})

async function wire(): Promise<Wire> {
  const client = await Wire.open(gate.port)
  clients.add(client)
  return client
}

const get = (path: string, ...more: string[]): string =>
  [`GET ${path} HTTP/1.1`, 'Host: a', ...more, '', ''].join('\r\n')
const quietStream = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n'

/** Each route's paths answer by themselves, so that one test leaves nothing to another. */
gate.upstream.answer = (socket, seen) => answers.get(seen.target)!(socket, seen)
const answers = new Map<string, (socket: Socket, seen: Seen) => void>()
const answer = (path: string, how: (socket: Socket, seen: Seen) => void): void => {
  answers.set(path, how)
}
const bytes =
  (text: string) =>
  (socket: Socket): void =>
    void socket.write(text, 'latin1')

// Begun first: an answer counts as long after 10 s.
answer('/public/long', bytes('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf'))
answer('/public/long/short', ok)
const long = await wire()
long.write(get('/public/long'))
await until('it is under way', () => long.rest.endsWith('half'))

t.test('an upload that the upstream reads late arrives, whatever timeouts.headers', async (t) => {
  const body = Buffer.alloc(20 << 20, 'x')
  answer('/public/patient', async (socket, seen) => {
    socket.pause()
    await pause(2500)
    let end = ''
    let bytes = 0
    socket.removeAllListeners('data').on('data', (data) => {
      bytes += data.length
      end = (end + data.subarray(-5).toString('latin1')).slice(-5)
      if (bytes < body.length - 1e6 || (end !== 'xxxxx' && end !== '0\r\n\r\n')) return
      if (end === 'xxxxx' && bytes + seen.body.length < body.length) return
      ok(socket, seen)
    })
    socket.resume()
  })
  const path = '/public/patient'
  for (const headers of [{}, { 'transfer-encoding': 'chunked' }] as Record<string, string>[])
    t.equal((await gate.ask(path, undefined, { method: 'POST', body, headers })).status, 200)
})

t.test('an upstream that does not answer in time is ended, whatever it does instead', async (t) => {
  const body = Buffer.alloc(20 << 20, 'x')
  answer('/public/deaf', (socket) => socket.pause())
  const deaf = await gate.ask('/public/deaf', undefined, { method: 'POST', body })
  t.same([deaf.status, deaf.code], [504, 'ERR_UPSTREAM_TIMEOUT'], 'reads nothing')
  answer('/public/patient/mute', () => {})
  const mute = await gate.ask('/public/patient/mute', undefined, { method: 'POST', body: 'x' })
  t.same([mute.status, mute.code], [504, 'ERR_UPSTREAM_TIMEOUT'], 'reads all and answers nothing')
  for (const interim of ['100 Continue', '102 Processing']) {
    answer('/public/patient/busy', (socket) => {
      const timer = setInterval(() => socket.write(`HTTP/1.1 ${interim}\r\n\r\n`), 50)
      socket.on('close', () => clearInterval(timer))
    })
    const busy = await gate.ask('/public/patient/busy')
    t.same([busy.status, busy.code], [504, 'ERR_UPSTREAM_TIMEOUT'], `sends ${interim}`)
  }
})

t.test('0s is no limit for an upstream', async (t) => {
  answer('/public/endless', async (socket, seen) => {
    await pause(2500)
    ok(socket, seen)
  })
  t.equal((await gate.ask('/public/endless')).status, 200)
})

t.test('0s is no limit for a client', async (t) => {
  const text = '{"ok": true}'
  for (const path of ['/public', '/public/reads']) {
    answer(path, async (socket, seen) => {
      await until('all of it', () => seen.complete)
      ok(socket, seen)
    })
    const client = await wire()
    client.write(
      `POST ${path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ${text.length}\r\n\r\n{`,
    )
    await pause(100)
    client.write(text.slice(1))
    t.equal((await client.answer())?.status, 200, path)
  }
  const length = 30 << 20
  answer('/public', (socket) => {
    socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${length}\r\n\r\n`)
    socket.write(Buffer.alloc(length, 'x'))
  })
  const lazy = await wire()
  lazy.socket.pause()
  lazy.write(get('/public'))
  await pause(500)
  let got = 0
  lazy.socket.removeAllListeners('data').on('data', (data) => {
    got += data.length
  })
  lazy.socket.resume()
  await until('all of it', () => got > length)
})

t.test('quiet event streams take no place from requests', async (t) => {
  answer('/public/streams', bytes(quietStream))
  answer('/public/streams/short', ok)
  const streams = await Promise.all(Array.from({ length: 40 }, wire))
  for (const each of streams) {
    each.write(get('/public/streams'))
    await until('it is open', () => each.rest.endsWith('\r\n\r\n'))
    t.match(each.rest, /^HTTP\/1\.1 200 /)
    t.equal((await gate.ask('/public/streams/short')).status, 200)
  }
  for (const each of streams) each.destroy()
})

t.test('event streams have a limit of their own, and leave their places behind', async (t) => {
  answer('/public/few', bytes(quietStream))
  answer('/public/few/short', ok)
  for (let round = 0; round < 2; round++) {
    const streams = [await wire(), await wire()]
    for (const each of streams) {
      each.write(get('/public/few'))
      await until('it is open', () => each.rest.endsWith('\r\n\r\n'))
    }
    const third = await gate.ask('/public/few')
    t.same([third.status, third.code], [503, 'ERR_OVERLOADED'])
    t.equal((await gate.ask('/public/few/short')).status, 200)
    for (const each of streams) each.destroy()
    await until('they are gone', () => gate.live === 1)
  }
})

t.test('interim answers: 103 is passed on, others end here, the answer arrives', async (t) => {
  const hint = 'HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nset-cookie: a=1\r\n\r\n'
  const proceed = 'HTTP/1.1 100 Continue\r\nx-odd: 1\r\n\r\n'
  const final = 'HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\nHTTP/1.1 100 Conti'
  const before = [
    [proceed, []],
    [proceed.repeat(3) + hint + proceed, [103]],
    ['HTTP/1.1 102 Processing\r\n\r\n'.repeat(300), []],
    [hint.repeat(16), Array(16).fill(103)],
  ] as const
  for (const [text, interim] of before) {
    for (const pieces of [1, 7, 100]) {
      answer('/public', async (socket) => {
        const all = text + final
        const size = Math.ceil(all.length / pieces)
        for (let at = 0; at < all.length; at += size) {
          socket.write(all.slice(at, at + size))
          if (pieces > 1) await pause(1)
        }
      })
      const client = await wire()
      for (let i = 0; i < 2; i++) {
        client.write(get('/public'))
        const read = await client.answer()
        t.same([read?.status, read?.body, read?.interim], [200, 'HTTP/1.1 100 Conti', interim])
      }
      client.destroy()
    }
  }
  answer('/public', bytes(hint + final))
  const seen = await gate.raw(get('/public', 'Connection: close'), 3000)
  t.match(seen, /^HTTP\/1\.1 103 Early Hints\r\nLink: <\/a\.css>; rel=preload\r\n\r\nHTTP/)
  t.notMatch(seen, /set-cookie/, 'only links')
  const old = 'GET /public HTTP/1.0\r\nHost: a\r\n\r\n'
  t.match(await gate.raw(old, 3000), /^HTTP\/1\.1 200 /, 'none to HTTP/1.0')
  // Node would read this one in 3^30 ways.
  answer('/public', bytes(`HTTP/1.1 103 E\r\nlink: </a>${';a=b=c'.repeat(30)}"\r\n\r\n${final}`))
  t.match(await gate.raw(get('/public', 'Connection: close'), 3000), /^HTTP\/1\.1 200 /)
  const split = 'HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n'
  for (const text of [
    split,
    hint.repeat(17),
    proceed.repeat(200),
    'HTTP/1.1 102 P\r\n\r\n'.repeat(2000),
  ]) {
    answer('/public', bytes(text + final))
    t.equal((await gate.ask('/public')).status, 502, 'not without end')
  }
})

t.test('trailers reach a client that asks for them, but for those that decide', async (t) => {
  answer(
    '/public',
    bytes(
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n2\r\nok\r\n0\r\nX-Checksum: abc\r\nGrpc-Status: 0\r\nSet-Cookie: a=1\r\nContent-Type: text/html\r\nX-Dropgate-Subject: root\r\nAccess-Control-Allow-Origin: *\r\n\r\n',
    ),
  )
  const told = await gate.raw(get('/public', 'TE: trailers', 'Connection: TE, close'), 3000)
  t.match(told, /\r\n2\r\nok\r\n0\r\nX-Checksum: abc\r\nGrpc-Status: 0\r\n\r\n$/)
  t.match(gate.upstream.seen.at(-1)!.head, /^te: trailers$/m, 'the upstream knows')
  answer('/public/set', answers.get('/public')!)
  const set = await gate.raw(get('/public/set', 'TE: trailers', 'Connection: close'), 3000)
  t.match(set, /\r\nx-checksum: own\r\n/)
  t.match(set, /\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\n\r\n$/, 'what the policy says stays')
  const untold = await gate.raw(get('/public', 'Connection: close'), 3000)
  t.match(untold, /\r\n2\r\nok\r\n0\r\n\r\n$/)
  t.notMatch(gate.upstream.seen.at(-1)!.head, /^te:/m)
  answer('/public', ok)
  const body = '2\r\nhi\r\n0\r\nX-User: root\r\n\r\n'
  const post = `POST /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n${body}`
  t.match(await gate.raw(post, 3000), /^HTTP\/1\.1 200 /)
  t.notMatch(gate.upstream.seen.at(-1)!.body, /X-User/i, 'those of a request end here')
})

t.test('a HEAD keeps its upstream connection, and a body behind it poisons nothing', async (t) => {
  const client = await wire()
  const head = async (): Promise<void> => {
    client.write(get('/public').replace('GET', 'HEAD'))
    t.equal((await client.answer('HEAD'))?.status, 200)
  }
  const used = new Set<Socket>()
  answer('/public', (socket) => {
    used.add(socket)
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n')
  })
  for (let i = 0; i < 10; i++) {
    await head()
    await pause(100)
  }
  t.ok(used.size < 10, `${used.size} connections for 10`)
  used.clear()
  // What such an upstream sends must never be taken for the answer to the next request.
  const poison = 'HTTP/1.1 299 Poison\r\ncontent-length: 3\r\n\r\nbad'
  for (const lateMs of [0, 20]) {
    answer('/public', (socket, seen) => {
      used.add(socket)
      if (seen.requestLine.startsWith('GET')) ok(socket, seen)
      else {
        socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${poison.length}\r\n\r\n`)
        setTimeout(() => socket.write(poison), lateMs)
      }
    })
    for (let i = 0; i < 5; i++) {
      await head()
      client.write(get('/public'))
      t.equal((await client.answer())?.status, 200)
      await pause(lateMs + 10)
    }
  }
  t.ok(used.size >= 10)
})

t.test('a reason phrase is the upstream’s own, where it is plain', async (t) => {
  for (const [line, told] of [
    ['200 Fine By Me', '200 Fine By Me'],
    ['404 Nothing (here)', '404 Nothing (here)'],
    ['200 OK', '200 OK'],
    ['200 ', '200 OK'],
    ['599 ', '599 unknown'],
    ['200 caf\xe9', '200 OK'],
    [`200 ${'a'.repeat(1000)}`, '200 OK'],
  ] as const) {
    answer('/public', bytes(`HTTP/1.1 ${line}\r\ncontent-length: 0\r\n\r\n`))
    const [first] = (await gate.raw(get('/public', 'Connection: close'), 3000)).split('\r\n')
    t.equal(first, `HTTP/1.1 ${told}`, line.slice(0, 20))
  }
})

t.test('the keys of RFC 6455 are keys, and 300 query pairs are a query', async (t) => {
  const path = `/public?${Array.from({ length: 300 }, (_, i) => `f[${i}]=${i}`).join('&')}`
  answer(path, ok)
  t.equal((await gate.ask(path)).status, 200)
  answer('/public', bytes('HTTP/1.1 426 Later\r\ncontent-length: 0\r\nconnection: close\r\n\r\n'))
  for (const key of ['dGhlIHNhbXBsZSBub25jZQ==', 'AQIDBAUGBwgJCgsMDQ4PEC==']) {
    const handshake = get('/public', 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', `Sec-WebSocket-Key: ${key}`) // biome-ignore format: one line
    t.match(await gate.raw(handshake, 3000), /^HTTP\/1\.1 426 Later/, key)
  }
})

t.test('a connection to the upstream ends with its age, but no answer on it does', async (t) => {
  const used = new Set<Socket>()
  const aged: Promise<Answer>[] = []
  answer('/public/aged', (socket, seen) => {
    used.add(socket)
    ok(socket, seen)
  })
  answer('/public/aged/slow', async (socket, seen) => {
    await pause(1000)
    ok(socket, seen)
  })
  aged.push(gate.ask('/public/aged/slow'))
  const began = performance.now()
  for (let i = 0; i < 12; i++) {
    t.equal((await gate.ask('/public/aged')).status, 200)
    await pause(100)
  }
  const ages = (performance.now() - began) / 400
  t.ok(used.size >= 2 && used.size <= ages + 1, `${used.size} connections in ${ages} ages`)
  t.equal((await aged[0]!).status, 200)
})

t.test('an answer that lasts leaves its place to short ones', async (t) => {
  await until('it counts as long', async () => {
    const { status } = await gate.ask('/public/long/short')
    if (status !== 200) await pause(300)
    return status === 200
  })
  t.ok(long.rest.endsWith('half'), 'it goes on')
  t.equal(long.closed, false)
})
