/**
 * Targets at each of the differential servers that is installed: nginx, apache2, haproxy, lighttpd, h2o, Go, and ways of
 * reading a target on Node. `COUNT` and `SEED` may be given.
 */
import { startApache, startH2o, startHaproxy, startLighttpd } from '../differential/daemons.ts'
import { startGo } from '../differential/go.ts'
import { startNginx } from '../differential/nginx.ts'
import { startNode } from '../differential/node.ts'
import { classics, targetOf } from '../differential/targets.ts'
import { DifferentialWalk } from '../differential/walk.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const count = Number(process.env.COUNT ?? 5000)
const seed = seedOf()
const { walk, absent } = await DifferentialWalk.start({
  node: startNode,
  nginx: startNginx,
  apache2: startApache,
  haproxy: startHaproxy,
  lighttpd: startLighttpd,
  h2o: startH2o,
  go: startGo,
})
console.log(
  `differential servers: ${count} targets for each of ${walk.serverRoutes.length} routes, SEED=${seed}`,
)
if (absent.length > 0) console.log(`  absent: ${absent.join(', ')}`)
const random = seeded(seed)
const startedAt = performance.now()
const results = await walk.send([
  ...classics,
  ...Array.from({ length: count }, () => targetOf(random)),
])
let fine = true
for (const { name, allowed, resolved, naive, reached } of results) {
  console.log(
    `  ${name.padEnd(60)} ${allowed} allowed, ${resolved} resolved, ${reached.length} reached what is denied; past a rule on what is written: ${naive}`,
  )
  for (const target of reached.slice(0, 10)) console.log(`    ${target}`)
  if (reached.length > 0 || allowed === 0) fine = false
}
console.log(`  in ${((performance.now() - startedAt) / 1000).toFixed(0)} s`)
await walk.stop()
process.exitCode = fine ? 0 : 1
