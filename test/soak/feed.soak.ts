/**
 * One statement that revokes a million, while the gate serves: one notification, and every row denies for revocation within
 * eight seconds of the commit. `ROWS` may be given.
 */

import { keyOf, wordsOfKeys } from '../../src/domain/revocation.ts'
import { compare, follow } from '../harness/follower.ts'
import { startPostgres } from '../harness/postgres.ts'
import { pause, until } from '../harness/wait.ts'

const rows = Number(process.env.ROWS ?? 1_000_000)
console.log(`feed: ${rows} revocations in one statement`)
const cluster = await startPostgres()
const followed = await follow(cluster.url, { tickMs: 500, spareRows: 100_000 })
const { ledger, feed } = followed
const owner = await cluster.client('migrate_url')
const heard: string[] = []
const listener = await cluster.client('url')
listener.on('notification', ({ payload }) => heard.push(payload ?? ''))
const { rows: feeds } = await owner.query('SELECT channel FROM dropgate.feed')
await listener.query(`LISTEN ${feeds[0].channel}`)

const startedAt = performance.now()
await owner.query(
  "INSERT INTO dropgate.revocations (subject) SELECT 'bulk-' || i FROM generate_series(1, $1::int) i",
  [rows],
)
const committedAt = performance.now()
let longestStale = 0
const stale = setInterval(() => {
  const now = Number(process.hrtime.bigint() / 1000n)
  longestStale = Math.max(longestStale, ledger.ageMs(now, Date.now()))
}, 10)
await until('all of them', () => ledger.rows === rows, 60_000)
const inForceMs = performance.now() - committedAt
await until('fresh', () => feed.status().state === 'following', 60_000)
clearInterval(stale)
let missing = 0
for (let i = 1; i <= rows; i++) {
  const words = wordsOfKeys([keyOf('subject', '', `bulk-${i}`)])
  if (ledger.table.find(words, 0, -1) === -1) missing++
}
await pause(100)
const differences = await compare(followed, await cluster.client('url'))
console.log(
  `  statement ${((committedAt - startedAt) / 1000).toFixed(1)} s; all in force ${(inForceMs / 1000).toFixed(1)} s after its commit; ` +
    `freshness was at most ${(longestStale / 1000).toFixed(1)} s old; ${heard.length} notification; ${ledger.growths} growths; ` +
    `${missing} missing; ${differences.length} differences; ${feed.status().loads} load, ${feed.status().bulks} bulk`,
)
const fine =
  missing === 0 &&
  differences.length === 0 &&
  inForceMs < 8000 &&
  heard.length === 1 &&
  feed.status().loads === 1
await feed.close()
await cluster.close()
process.exit(fine ? 0 : 1)
