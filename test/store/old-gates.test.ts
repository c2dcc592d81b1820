/**
 * This release migrates a database that gates of an earlier release serve from, under load: they miss nothing, refuse
 * nothing that they need not, load nothing anew, and serve on beside gates of this release.
 */
import type pg from 'pg'
import t from 'tap'
import { TestIssuer } from '../harness/issuer.ts'
import { MigratedFleet } from '../harness/migrated-fleet.ts'
import { startPostgres } from '../harness/postgres.ts'
import {
  command,
  earlierReleases,
  GateProcess,
  type Ran,
  type Release,
  thisRelease,
} from '../harness/releases.ts'
import { Upstream } from '../harness/upstream.ts'
import { until } from '../harness/wait.ts'

// It starts processes one after another: on a busy machine each takes its time.
t.setTimeout(400_000)
const cluster = await startPostgres()
const owner = await cluster.client('migrate_url')
const issuer = new TestIssuer()
const upstream = new Upstream()
await Promise.all([issuer.open(), upstream.open()])
const gates: GateProcess[] = []
t.teardown(async () => {
  for (const gate of gates) gate.remove()
  issuer.close()
  upstream.close()
  await cluster.close()
})

/** A database that only this release has made, and roles of its own. */
async function oldDatabase(release: Release, name: string) {
  await owner.query(`CREATE DATABASE ${name}`)
  const at = (url: string): string => url.replace(/\w+$/, name)
  const urls = {
    url: at(cluster.url),
    cli_url: at(cluster.cli_url),
    migrate_url: at(cluster.migrate_url),
  }
  const config = {
    database: { ...urls, role_prefix: `${name}_` },
    issuers: [{ issuer: issuer.url, audience: ['api'], algorithms: ['ES256'] }],
    routes: [{ name: 'orders', path: '/orders', upstream: upstream.origin }],
    // Comparisons tell of each difference between a gate and the table. A busy machine is no reason to refuse.
    revocation: { tick: '200ms', verify: '1s', max_staleness: '30s' },
    limits: { max_lag: '30s' },
  }
  const gate = (of: Release): GateProcess => {
    gates.push(new GateProcess(of, config))
    return gates.at(-1)!
  }
  const first = gate(release)
  const made = await command(release, first.config, 'migrate')
  if (made.exit !== 0) throw new Error(made.err)
  await owner.query(`GRANT ${name}_gate TO gate`)
  await owner.query(`GRANT ${name}_revoker, ${name}_lifter TO cli`)
  return { urls, gate, first }
}

/**
 * Migrates while a transaction that has written is open, so that the migration waits for its locks: gates follow
 * meanwhile. A migration that gives up changes nothing and is tried again.
 */
async function migrateBehindWriter(writer: pg.Client, config: string, old: readonly GateProcess[]) {
  for (let attempt = 1; ; attempt++) {
    await writer.query('BEGIN')
    await writer.query("INSERT INTO dropgate.revocations (subject) VALUES ('long')")
    let ran: Ran | undefined
    const migrating = command(thisRelease, config, 'migrate').then((result) => {
      ran = result
    })
    await until('the migration waits', async () => ran !== undefined || (await isWaiting()))
    const ticks = await Promise.all(old.map(async (gate) => (await gate.status()).feed.ticks))
    let followed = false
    await until('gates follow', async () => {
      const now = await Promise.all(old.map(async (gate) => (await gate.status()).feed.ticks))
      followed ||= now.every((each, i) => each >= ticks[i]! + 2) && (await isWaiting())
      return followed || ran !== undefined
    })
    await writer.query('ROLLBACK')
    await migrating
    if (ran!.exit === 0) return { attempt, followed }
    if (attempt === 5 || !/lock timeout|waited too long for a lock/.test(ran!.err))
      throw new Error(ran!.err)
  }
}

async function isWaiting(): Promise<boolean> {
  const { rows } = await owner.query(
    "SELECT FROM pg_stat_activity WHERE application_name = 'dropgate migrate' AND wait_event_type = 'Lock'",
  )
  return rows.length > 0
}

for (const release of earlierReleases()) {
  const name = release.name.replaceAll('-', '_')
  t.test(`gates of ${release.name} miss nothing while this release migrates`, async (t) => {
    const { urls, gate, first } = await oldDatabase(release, name)
    const connect = async (): Promise<pg.Client> => await cluster.client(urls.cli_url)
    const old = [first, gate(release)]
    await Promise.all(old.map((each) => each.start()))
    const fleet = new MigratedFleet(issuer, connect)
    t.teardown(() => fleet.stop())
    fleet.gates = old
    fleet.start()
    await fleet.goOn()
    const before = await Promise.all(old.map((each) => each.status()))

    const { attempt, followed } = await migrateBehindWriter(await connect(), first.config, old)
    t.comment(`migrated at attempt ${attempt}`)
    t.ok(followed, 'gates follow while the migration waits for a lock')
    await fleet.goOn()

    // One that is started again, as by a machine that was restarted, and one of this release.
    const later = [gate(release), gate(thisRelease)]
    await Promise.all(later.map((each) => each.start()))
    fleet.gates = [...old, ...later]
    await fleet.goOn()
    for (const by of [first, later[1]!]) {
      const { exit, out, err } = await command(
        ...([
          by.release,
          by.config,
          'revoke',
          '--subject',
          'waited for',
          '--wait',
          '--timeout',
          '60s',
          '--json',
        ] as const),
      )
      t.equal(exit, 0, `revoke --wait of ${by.release.name} ${err}`)
      t.equal(JSON.parse(out).receipts?.length, 4, 'every gate gives its receipt')
    }
    for (const each of old) {
      const { comparisons } = (await each.status()).feed
      await until('a comparison after it', async () => {
        return (await each.status()).feed.comparisons > comparisons
      })
    }

    fleet.gates = later.slice(1)
    await fleet.goOn()
    const after = await Promise.all(old.map((each) => each.status()))
    for (const each of [...old, later[0]!]) t.equal(await each.stop(), 0)
    await fleet.goOn()
    await fleet.stop()
    t.same(fleet.problems, [])
    for (const [i, { feed }] of after.entries()) {
      t.equal(feed.state, 'following')
      t.equal(feed.loads, before[i]!.feed.loads, 'nothing is loaded anew')
      t.equal(feed.differences, 0, 'no comparison finds a difference')
    }
    t.same(gates.flatMap(complaints), [])
    t.comment(`${fleet.requests} requests; ${JSON.stringify([...fleet.rounds.values()])} rounds`)
    const { rows } = await (await connect()).query(
      'SELECT count(*)::int AS n FROM dropgate.revocations WHERE id NOT IN (SELECT row_id FROM dropgate.canaries)',
    )
    for (const each of later.slice(1)) {
      await until('all rows', async () => (await each.status()).ledger.rows === rows[0].n)
      t.equal(await each.stop(), 0)
    }
  })
}

/** A busy machine may let a gate wait for an answer, and it connects anew: every other error is a fault of a gate. */
function complaints({ release, logged }: GateProcess): string[] {
  return logged
    .filter(({ level, msg }) => level === 'error' && !/no answer for \d+ ms/.test(msg))
    .map(({ msg }) => `${release.name}: ${msg}`)
}
