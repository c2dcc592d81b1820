/** What was refused is gone: `make soak` does the same with ten thousand of every kind. */
import t from 'tap'
import { Boundary } from '../corpus/boundary.ts'
import { Refusals } from '../corpus/refusals.ts'

t.test('refusals of every kind leave pools, memory and descriptors as before', async (t) => {
  const boundary = await Boundary.start()
  const refusals = await Refusals.prepare(boundary)
  t.teardown(async () => {
    refusals.close()
    await boundary.stop()
  })
  t.ok(refusals.kinds.length > 35, `${refusals.kinds.length} kinds`)
  await refusals.run(30)
  const before = await refusals.left()
  const sent = await refusals.run(100)
  const after = await refusals.left()
  t.comment(`${sent} refusals, before ${JSON.stringify(before)}, after ${JSON.stringify(after)}`)
  t.ok(after.descriptors <= before.descriptors + 4, 'descriptors')
  t.ok(after.upstreamConnections <= before.upstreamConnections + 4, 'connections to the upstream')
  t.equal(after.live, before.live, 'exchanges')
  t.ok(after.memoryMiB < before.memoryMiB + 64, 'memory')
})
