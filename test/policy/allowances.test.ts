import t from 'tap'
import { subjectCaller } from '../../src/domain/caller.ts'
import { Allowances, shortenedMs } from '../../src/policy/allowances.ts'

const now = performance.now.bind(performance)
let later = 0
t.before(() => {
  performance.now = () => now() + later
})
t.teardown(() => {
  performance.now = now
})
const caller = (name: string) => subjectCaller('https://idp.example', name)

t.test(
  'a caller has less time after each evaluation that took too long, for a minute from the first',
  async (t) => {
    const allowances = new Allowances()
    const [alice, bob] = [caller('alice'), caller('bob')]
    t.equal(allowances.of(alice), 1)
    const shares = [1 / 8, 1 / 32, 1 / 32, 1 / 32]
    for (const share of shares) {
      allowances.note(alice)
      t.equal(allowances.of(alice), share)
      t.equal(allowances.of(bob), 1, 'another caller has all of it')
      later += 10_000
    }
    later += shortenedMs - 10_000 * shares.length - 1000
    t.equal(allowances.of(alice), 1 / 32)
    later += 1000
    t.equal(allowances.of(alice), 1, 'later ones did not make it longer')
    allowances.note(alice)
    t.equal(allowances.of(alice), 1 / 8, 'and it begins anew')
  },
)

t.test(
  'many callers take no more memory, forget one another at most, and never concern one that did nothing',
  async (t) => {
    const allowances = new Allowances()
    const noisy = Array.from({ length: 20_000 }, (_, i) => caller(`noisy-${i}`))
    for (const each of noisy) {
      allowances.note(each)
      t.equal(allowances.of(each), 1 / 8)
    }
    const held = noisy.filter((each) => allowances.of(each) < 1).length
    t.ok(held > 3000 && held <= 4096, `${held} are held`)
    for (let i = 0; i < 2000; i++) t.equal(allowances.of(caller(`quiet-${i}`)), 1)
    // The newest are held: a caller is not rid of the limit by what others did before.
    t.equal(allowances.of(noisy.at(-1)!), 1 / 8)
  },
)
