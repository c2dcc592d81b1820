/** The corpus: of each raw request comes what the rules say, and no other request is touched by it. */
import t, { type Test } from 'tap'
import { Boundary } from '../corpus/boundary.ts'
import { type Case, get, head } from '../corpus/case.ts'
import { framingCases } from '../corpus/framing.ts'
import { generate } from '../corpus/grammar.ts'
import { headerCases } from '../corpus/headers.ts'
import { targetCases } from '../corpus/targets.ts'
import { pause, seeded, seedOf, until } from '../harness/wait.ts'
import { Wire } from '../harness/wire.ts'

const boundary = await Boundary.start()
t.teardown(() => boundary.stop())

async function walkAll(t: Test, cases: readonly Case[]): Promise<void> {
  for (const each of cases) {
    try {
      await boundary.walk(each)
    } catch (error) {
      t.fail(`${each.rule} ${each.name}: ${(error as Error).message}`)
      continue
    }
    t.pass(`${each.rule} ${each.name}`)
  }
}

t.test('the cases of framing and methods meet their expectations', (t) => walkAll(t, framingCases))
t.test('the cases of targets and hosts meet their expectations', (t) => walkAll(t, targetCases))
t.test('the cases of headers and credentials meet their expectations', (t) =>
  walkAll(t, headerCases),
)

t.test(
  'a request that the grammars make is allowed as it is, or refused for what is wrong in it',
  async (t) => {
    const seed = seedOf()
    t.comment(`SEED=${seed}`)
    const random = seeded(seed)
    const cases = Array.from({ length: 400 }, (_, i) => generate(random, [0, 0.1, 0.3][i % 3]!))
    await walkAll(t, cases)
    const allowed = cases.filter(({ expectation }) => expectation.kind === 'allowed').length
    t.ok(allowed > 100 && allowed < 300, `${allowed} of ${cases.length} were allowed`)
  },
)

t.test('a client that resets while it is refused takes no worker with it', async (t) => {
  const requests = [
    head('CONNECT db.internal:5432 HTTP/1.1'),
    get('Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13'),
    head('BREW /public HTTP/1.1'),
    `${head('POST /nowhere HTTP/1.1', 'Content-Length: 10')}hello`,
    `${head('POST /public HTTP/1.1', 'Transfer-Encoding: chunked')}zz\r\n`,
  ]
  for (const bytes of requests) {
    for (let i = 0; i < 40; i++) {
      const wire = await Wire.open(boundary.gate.port)
      wire.write(bytes)
      // Half of them before the answer is there, half with it.
      if (i % 2 === 0) await new Promise(setImmediate)
      else await wire.answer().catch(() => undefined)
      wire.socket.resetAndDestroy()
    }
  }
  await boundary.honest()
  // What a busy machine may bring with it is of no client's doing.
  const busy = /no answer for \d+ ms|stops every worker for/
  const lost = boundary.gate.logged.filter(
    ({ level, message }) => level !== 'info' && !busy.test(message),
  )
  t.same(lost, [])
})

t.test('a client that sends ahead is not read ahead, and is served in its turn', async (t) => {
  const { gate, recorder } = boundary
  recorder.clear()
  recorder.replies.set('/public/held', '')
  const wire = await Wire.open(gate.port)
  wire.write(head('GET /public/held HTTP/1.1'))
  await until('it is under way', () => recorder.arrived.length === 1)
  // Not so many in one read that the connection is given up.
  const piece = get(`X-Fill: ${'a'.repeat(2000)}`).repeat(20)
  const pieces = 400
  let taken = 0
  for (let i = 0; i < pieces; i++) wire.socket.write(piece, () => taken++)
  let stable = 0
  await until('nothing more is taken', async () => {
    const before = taken
    await pause(50)
    stable = taken === before ? stable + 1 : 0
    return stable === 10
  })
  // What the kernel holds on both sides is no concern of the gate.
  t.ok(taken < pieces * 0.7, `${taken} of ${pieces} pieces were taken`)
  t.equal(recorder.arrived.length, 1, 'and none of them is under way')
  wire.destroy()

  const patient = await Wire.open(gate.port)
  for (let round = 0; round < 50; round++) {
    patient.write(get().repeat(65))
    for (let i = 0; i < 65; i++) {
      if ((await patient.answer())?.status !== 200) t.fail(`answer ${i}`)
    }
  }
  patient.destroy()
  await boundary.honest()
})
