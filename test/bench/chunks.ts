/**
 * What it costs to relay a body that comes in small pieces: CPU of the gate, with one worker, and of nginx.
 *
 *   node test/bench/chunks.ts
 */
import { connect, createServer } from 'node:net'
import { compile } from '../harness/bundle.ts'
import { startPostgres } from '../harness/postgres.ts'
import { cpuS, machine } from './machine.ts'
import { Parts } from './parts.ts'
import { nginxVersion, plainProxy } from './peers.ts'

const say = (text: string): void => void process.stdout.write(`${text}\n`)
const rounds = Number(process.env.ROUNDS ?? 10)
/** [bytes in a chunk, chunks] */
const kinds = [
  [1, 100_000],
  [100, 20_000],
  [4096, 5_000],
] as const

/** Bytes of the body that is under way. It may come in other pieces, or with a length: nginx keeps it until it is whole. */
let expected = 0

/** Answers each request once its body has come. */
const upstream = createServer((socket) => {
  let seen = 0
  socket.on('error', () => {})
  socket.on('data', (data) => {
    for (const byte of data) if (byte === 0x7e) seen++
    if (seen < expected) return
    seen = 0
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok')
  })
})
await new Promise<void>((resolve) => upstream.listen(0, '127.0.0.1', resolve))
const upstreamPort = (upstream.address() as { port: number }).port

/** Sends one such body and waits for the answer. */
function upload(port: number, bytes: number, chunks: number): Promise<void> {
  expected = bytes * chunks
  const chunk = `${bytes.toString(16)}\r\n${'~'.repeat(bytes)}\r\n`
  const head = 'POST /orders/7 HTTP/1.1\r\nHost: bench\r\nTransfer-Encoding: chunked\r\n\r\n'
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.write(head)
      socket.write(chunk.repeat(chunks))
      socket.write('0\r\n\r\n')
    })
    let answer = ''
    socket.on('error', reject)
    socket.on('data', (data) => {
      answer += data.toString('latin1')
      if (!answer.endsWith('ok')) return
      socket.destroy()
      if (answer.startsWith('HTTP/1.1 200')) resolve()
      else reject(new Error(answer.slice(0, 200)))
    })
  })
}

const parts = await new Parts().open()
const cluster = await startPostgres()
try {
  const gate = await parts.gate(
    'chunks',
    compile('default decision := false\n\ndecision if input.attributes.request.http.method'),
    {
      routes: [
        {
          name: 'orders',
          auth: 'none',
          upstream: `http://127.0.0.1:${upstreamPort}`,
          policy_body: 'withhold',
        },
      ],
      database: { url: cluster.url },
      workers: 1,
    },
  )
  const ways = [{ name: 'dropgate', port: gate.port, pids: [gate.child.pid!] }]
  if (nginxVersion() !== undefined) {
    const { port, children } = await plainProxy(parts.folder, upstreamPort)
    parts.children.push(...children)
    ways.push({ name: 'nginx, plain proxy', port, pids: children.map(({ pid }) => pid!) })
  }
  say(`${machine()}; the mean of ${rounds} uploads`)
  say(
    '\n| bytes in a chunk | chunks | | CPU ms | µs per chunk |\n| ---: | ---: | --- | ---: | ---: |',
  )
  for (const [bytes, chunks] of kinds) {
    for (const { name, port, pids } of ways) {
      await upload(port, bytes, chunks)
      const before = cpuS(pids)
      for (let round = 0; round < rounds; round++) await upload(port, bytes, chunks)
      const ms = ((cpuS(pids) - before) * 1000) / rounds
      const us = (ms * 1000) / chunks
      say(`| ${bytes} | ${chunks} | ${name} | ${ms.toFixed(0)} | ${us.toFixed(2)} |`)
    }
  }
} finally {
  parts.close()
  upstream.close()
  await cluster.close()
}
process.exit()
