/**
 * The differential garden with every server that is installed: nginx, apache2, haproxy, lighttpd, h2o, Go, and ways of
 * reading a target on Node. `COUNT` and `SEED` may be given.
 */
import { plantApache, plantH2o, plantHaproxy, plantLighttpd } from '../differential/daemons.ts'
import { plantGo } from '../differential/go.ts'
import { plantNginx } from '../differential/nginx.ts'
import { plantNode } from '../differential/node.ts'
import { classics, targetOf } from '../differential/targets.ts'
import { GardenWalk } from '../differential/walk.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const count = Number(process.env.COUNT ?? 5000)
const seed = seedOf()
const { walk, absent } = await GardenWalk.start({
  node: plantNode,
  nginx: plantNginx,
  apache2: plantApache,
  haproxy: plantHaproxy,
  lighttpd: plantLighttpd,
  h2o: plantH2o,
  go: plantGo,
})
console.log(`garden: ${count} targets for each of ${walk.plots.length} routes, SEED=${seed}`)
if (absent.length > 0) console.log(`  absent: ${absent.join(', ')}`)
const random = seeded(seed)
const startedAt = performance.now()
const harvests = await walk.send([
  ...classics,
  ...Array.from({ length: count }, () => targetOf(random)),
])
let fine = true
for (const { name, allowed, resolved, naive, reached } of harvests) {
  console.log(
    `  ${name.padEnd(60)} ${allowed} allowed, ${resolved} resolved, ${reached.length} reached what is denied; past a rule on what is written: ${naive}`,
  )
  for (const target of reached.slice(0, 10)) console.log(`    ${target}`)
  if (reached.length > 0 || allowed === 0) fine = false
}
console.log(`  in ${((performance.now() - startedAt) / 1000).toFixed(0)} s`)
await walk.stop()
process.exitCode = fine ? 0 : 1
