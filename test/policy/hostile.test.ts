/** Thousands of inputs that throw, conflict, trap and fill the memory: afterwards the same instance answers rightly. */
import t from 'tap'
import { hostileBody, hostilePolicy } from '../harness/hostile.ts'
import { Chance } from '../harness/kinds.ts'
import { activePolicy } from '../harness/policy.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const decision = 'gate/authz/decision'

t.test(`3,000 hostile inputs, seed ${seed}: only the good one passes`, async (t) => {
  const policy = await activePolicy(hostilePolicy, { maxMemoryBytes: 64 << 20 })
  const chance = new Chance(seed)
  const wrong: string[] = []
  let failed = 0
  for (let i = 0; i < 3000; i++) {
    const { text, good } = hostileBody(chance)
    const answer = policy.decide(decision, `{"parsed_body":${text}}`)
    if (answer.allowed !== good) wrong.push(text.slice(0, 500))
    if (answer.failure !== undefined) failed++
  }
  t.same(wrong, [])
  t.ok(failed > 300, `${failed} of them ended an evaluation`)
})

t.test('depth: what the stack cannot hold denies, and the next one is right', async (t) => {
  const policy = await activePolicy(hostilePolicy)
  const good = '{"parsed_body":{"who":"alice"}}'
  for (const depth of [10_000, 100_000, 300_000]) {
    const deep = `{"parsed_body":{"who":"bob","x":${'['.repeat(depth)}${']'.repeat(depth)}}}`
    t.equal(policy.decide(decision, deep).allowed, false, `${depth}`)
    t.equal(policy.decide(decision, good).allowed, true)
  }
})

t.test('patterns that callers choose do not stay on a kept heap', async (t) => {
  const policy = await activePolicy(hostilePolicy, { maxMemoryBytes: 16 << 20 })
  for (let i = 0; i < 3000; i++) {
    const asked = `{"parsed_body":{"who":"bob","pattern":"x{${i % 900}}y${i}"}}`
    t.equal(policy.decide(decision, asked).allowed, false)
  }
  t.equal(policy.decide(decision, '{"parsed_body":{"who":"alice"}}').allowed, true)
})
