/** A process that was stopped wakes up with an old ledger and a full socket: it must not answer from what it knew. */
import { spawn } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { freePort } from '../bench/machine.ts'
import { TestIssuer } from '../harness/issuer.ts'
import { startPostgres } from '../harness/postgres.ts'
import { Upstream } from '../harness/upstream.ts'
import { pause, until } from '../harness/wait.ts'

const cluster = await startPostgres()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-paused-'))
const issuer = new TestIssuer()
const upstream = new Upstream()
await Promise.all([issuer.open(), upstream.open()])
const [port, adminPort] = [await freePort(), await freePort()]
mkdirSync(join(folder, 'bundles'))
cpSync('bundles/gate.tar.gz', join(folder, 'bundles', 'gate.tar.gz'))
writeFileSync(join(folder, 'jwks.json'), JSON.stringify({ keys: issuer.keys }))
writeFileSync(
  join(folder, 'dropgate.yaml'),
  JSON.stringify({
    listen: { port },
    admin: { port: adminPort, token_file: 'token', metrics_open: true },
    database: { url: cluster.url },
    issuers: [
      { issuer: issuer.url, audience: ['api'], algorithms: ['ES256'], jwks_file: 'jwks.json' },
    ],
    policy: { bundles: './bundles' },
    decision_log: { file: 'decisions.jsonl' },
    revocation: { max_staleness: '1s', tick: '200ms', verify: '20ms' },
    routes: [{ name: 'orders', path: '/orders', upstream: upstream.origin }],
    workers: 2,
    limits: { max_lag: '30s' },
    drain_timeout: '1s',
  }),
)
const gate = spawn(
  process.execPath,
  ['src/main.ts', 'serve', '--config', join(folder, 'dropgate.yaml')],
  { stdio: 'ignore' },
)
const gone = new Promise((resolve) => gate.once('exit', resolve))
t.teardown(async () => {
  gate.kill('SIGTERM')
  await gone
  issuer.close()
  upstream.close()
  await cluster.close()
  rmSync(folder, { recursive: true, force: true })
})

/** A connection that stays open; the head of each answer. */
class Line {
  readonly #socket: Socket = connect(port, '127.0.0.1')
  text = ''

  constructor() {
    this.#socket.on('data', (data) => {
      this.text += data.toString('latin1')
    })
    this.#socket.on('error', () => {})
  }

  send(token: string): void {
    this.text = ''
    this.#socket.write(
      `GET /orders HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer ${token}\r\n\r\n`,
    )
  }

  async answer(): Promise<string> {
    await until('an answer', () => this.text.includes('\r\n\r\n'))
    return /^HTTP\/1\.1 (\d+)/.exec(this.text)![1]!
  }

  close(): void {
    this.#socket.destroy()
  }
}

t.test('a process that was paused allows no request by what it knew before', async (t) => {
  await until(
    'ready',
    async () =>
      (await fetch(`http://127.0.0.1:${adminPort}/readyz`).catch(() => undefined))?.status === 200,
    30_000,
  )
  const revoker = await cluster.client('cli_url')
  for (let round = 0; round < 2; round++) {
    const token = await issuer.token(`paused-${round}`)
    const bystander = await issuer.token(`bystander-${round}`)
    const lines = Array.from({ length: 8 }, () => new Line())
    for (const line of lines) {
      await until('allowed', async () => {
        line.send(token)
        return (await line.answer()) === '200'
      })
    }
    gate.kill('SIGSTOP')
    await revoker.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [
      `paused-${round}`,
    ])
    await pause(1200)
    for (const line of lines) line.send(token)
    gate.kill('SIGCONT')
    for (const line of lines) t.match(await line.answer(), /^(?:401|503)$/)
    const other = new Line()
    await until('bystanders go on', async () => {
      other.send(bystander)
      return (await other.answer()) === '200'
    })
    for (const line of lines) {
      await until('denied for revocation', async () => {
        line.send(token)
        const status = await line.answer()
        if (status === '200') t.fail('allowed after the pause')
        return status === '401'
      })
      line.close()
    }
    other.close()
    await comparedAgain(t, 12)
  }
})

/** The process compares its whole ledger with the table so many times more, and never finds a difference. */
async function comparedAgain(t: Test, times: number): Promise<void> {
  const counted = async (result: string): Promise<number> => {
    const text = await (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text()
    const found = new RegExp(`dropgate_feed_comparisons_total{result="${result}"} (\\d+)`).exec(
      text,
    )
    return Number(found?.[1] ?? 0)
  }
  const before = await counted('equal')
  await until('compared', async () => (await counted('equal')) >= before + times, 60_000)
  t.equal(await counted('different'), 0)
}
