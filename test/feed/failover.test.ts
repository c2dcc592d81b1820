/** A primary that dies and its standby, both in `database.url`: the gate finds the one that accepts writes by itself. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import t from 'tap'
import { withClient } from '../../src/store/connect.ts'
import { compare, follow, settled } from '../harness/follower.ts'
import { startPostgres, startStandby } from '../harness/postgres.ts'
import { until } from '../harness/wait.ts'

const cluster = await startPostgres()
const standby = await startStandby(cluster, 'streaming')
t.teardown(async () => {
  standby.close()
  await cluster.close()
})

/** Both hosts, the standby first. */
function both(login: 'url' | 'cli_url'): string {
  const { host } = new URL(standby.url(login))
  return `${cluster[login].replace('@', `@${host},`)}?target_session_attrs=read-write`
}

/** As in a machine that loses its power: nothing is flushed, no session is ended in good order. */
async function killPrimary(): Promise<void> {
  const owner = await cluster.client('migrate_url')
  const { rows } = await owner.query("SELECT current_setting('data_directory') AS data")
  const pid = readFileSync(join(rows[0].data, 'postmaster.pid'), 'utf8').split('\n', 1)[0]
  const ended = new Promise((resolve) => owner.once('end', resolve))
  process.kill(Number(pid), 'SIGKILL')
  await ended
}

t.test('a gate follows the standby once it is promoted, and says why not before', async (t) => {
  const followed = await follow(both('url'))
  const insert = async (subject: string): Promise<void> => {
    await withClient({ url: both('cli_url'), kind: 'command' }, (client) =>
      client.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [subject]),
    )
  }
  for (let i = 0; i < 10; i++) await insert(`before ${i}`)
  const there = new pg.Client(standby.url('url'))
  await there.connect()
  const gate = await cluster.client('url')
  await settled(followed, gate)
  await until('the standby has them', async () => {
    const { rows } = await there.query('SELECT count(*)::int AS n FROM dropgate.live')
    return rows[0].n === 10
  })
  await killPrimary()
  const dead = new URL(cluster.url).port
  const alive = new URL(standby.url('url')).port
  await until('both failures are told', () => {
    const { code, message } = followed.feed.status()
    return (
      code === 'ERR_DATABASE_UNREACHABLE' &&
      message!.startsWith('none of the 2 hosts is of use: ') &&
      new RegExp(`127\\.0\\.0\\.1:${dead}/\\w+: connect ECONNREFUSED`).test(message!) &&
      new RegExp(`127\\.0\\.0\\.1:${alive}/\\w+: it is a standby`).test(message!)
    )
  })
  t.match(followed.feed.status().hint, /check that PostgreSQL runs/)
  t.match(followed.feed.status().hint, /target_session_attrs=read-write: check which server/)
  t.equal(followed.ledger.rows, 10, 'what it has stays in force')
  await standby.promote()
  await until('it follows', () => followed.feed.status().state === 'following')
  for (let i = 0; i < 10; i++) await insert(`after ${i}`)
  await settled(followed, there)
  t.equal(followed.ledger.rows, 20)
  t.same(await compare(followed, there), [])
  await there.end()
  await followed.feed.close()
})
