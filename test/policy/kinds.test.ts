/** The ten policy kinds (test/harness/kinds.ts) answer alike on `opa eval` and on the gate's engine; `make soak` asks 50 times as much. */
import t from 'tap'
import { compareKind, kinds } from '../harness/kinds.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const each = 200

for (const name of Object.keys(kinds)) {
  t.test(`${name}: opa and the engine answer ${each} requests alike (SEED=${seed})`, async (t) => {
    const { allowed, differences } = await compareKind(name, seed, each)
    t.same(differences.slice(0, 3), [])
    t.ok(allowed > 0 && allowed < each, `${allowed} allowed`)
  })
}
