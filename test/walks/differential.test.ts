/** A sample of targets at two of the differential servers: Node, and nginx where it is installed. `make soak` asks all. */
import t from 'tap'
import { startNginx } from '../differential/nginx.ts'
import { startNode } from '../differential/node.ts'
import { classics, targetOf } from '../differential/targets.ts'
import { DifferentialWalk } from '../differential/walk.ts'
import { seeded, seedOf } from '../harness/wait.ts'

t.test('no target that is allowed reaches what the policy denies', async (t) => {
  const seed = seedOf()
  const { walk, absent } = await DifferentialWalk.start({ node: startNode, nginx: startNginx })
  t.teardown(() => walk.stop())
  t.comment(`SEED=${seed}${absent.length > 0 ? `, absent: ${absent.join(', ')}` : ''}`)
  const random = seeded(seed)
  const generated = Array.from({ length: 120 }, () => targetOf(random))
  const results = await walk.send([...classics, ...generated])
  for (const { name, reached, allowed } of results) {
    t.same(reached, [], name)
    t.ok(allowed > 10, `${name}: ${allowed} were allowed`)
  }
  const naive = results.reduce((sum, result) => sum + result.naive, 0)
  t.ok(naive > 20, `${naive} would have reached it past a rule that compares what is written`)
})
