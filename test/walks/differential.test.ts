/** A sample of the differential garden: Node, and nginx where it is installed; `make soak` has all of it. */
import t from 'tap'
import { plantNginx } from '../differential/nginx.ts'
import { plantNode } from '../differential/node.ts'
import { classics, targetOf } from '../differential/targets.ts'
import { GardenWalk } from '../differential/walk.ts'
import { seeded, seedOf } from '../harness/wait.ts'

t.test('no target that is allowed reaches what the policy denies', async (t) => {
  const seed = seedOf()
  const { walk, absent } = await GardenWalk.start({ node: plantNode, nginx: plantNginx })
  t.teardown(() => walk.stop())
  t.comment(`SEED=${seed}${absent.length > 0 ? `, absent: ${absent.join(', ')}` : ''}`)
  const random = seeded(seed)
  const generated = Array.from({ length: 120 }, () => targetOf(random))
  const harvests = await walk.send([...classics, ...generated])
  for (const { name, reached, allowed } of harvests) {
    t.same(reached, [], name)
    t.ok(allowed > 10, `${name}: ${allowed} were allowed`)
  }
  const naive = harvests.reduce((sum, harvest) => sum + harvest.naive, 0)
  t.ok(naive > 20, `${naive} would have reached it past a rule that compares what is written`)
})
