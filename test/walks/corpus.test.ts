/** The corpus: each raw request meets the fate the rules give it, and no other request notices. */
import t, { type Test } from 'tap'
import { Boundary } from '../corpus/boundary.ts'
import { type Case, get, head } from '../corpus/case.ts'
import { framingCases } from '../corpus/framing.ts'
import { generate } from '../corpus/grammar.ts'
import { headerCases } from '../corpus/headers.ts'
import { targetCases } from '../corpus/targets.ts'
import { seeded, seedOf } from '../harness/wait.ts'
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

t.test('framing and methods', (t) => walkAll(t, framingCases))
t.test('targets and hosts', (t) => walkAll(t, targetCases))
t.test('headers and credentials', (t) => walkAll(t, headerCases))

t.test(
  'what the grammars make: allowed as it is, or refused for what is wrong in it',
  async (t) => {
    const seed = seedOf()
    t.comment(`SEED=${seed}`)
    const random = seeded(seed)
    const cases = Array.from({ length: 400 }, (_, i) => generate(random, [0, 0.1, 0.3][i % 3]!))
    await walkAll(t, cases)
    const allowed = cases.filter(({ fate }) => fate.kind === 'allowed').length
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
  const lost = boundary.gate.logged.filter(({ level }) => level !== 'info')
  t.same(lost, [])
})
