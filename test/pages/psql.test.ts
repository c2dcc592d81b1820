/** The stand-in for psql answers as psql does, where there is one to compare with. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { missingLines } from '../harness/pages.ts'
import { startPostgres } from '../harness/postgres.ts'

const cluster = await startPostgres()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-psql-'))
t.teardown(async () => {
  await cluster.close()
  rmSync(folder, { recursive: true })
})

const skip = spawnSync('psql', ['--version']).status === 0 ? false : 'psql is not installed'
t.test('the same rows, errors and exit status as psql', { skip }, async (t) => {
  const file = join(folder, 'statements.sql')
  writeFileSync(
    file,
    `-- a comment; with a semicolon
SELECT 'a;b' AS text, 1 AS number; SELECT $x$ ; $x$ AS quoted;
CREATE TEMP TABLE things (name text); INSERT INTO things VALUES (:'name'), ('it''s');
SELECT name FROM things ORDER BY name;
`,
  )
  const url = cluster.migrate_url
  const ways = [
    [url, '-v', 'name=x y', '-v', 'ON_ERROR_STOP=1', '-f', file],
    [url, '-A', '-t', '-c', 'SELECT 1, 2', '-c', 'SELECT 3'],
    [url, '-c', 'SELECT nothing'],
    [url, '-v', 'ON_ERROR_STOP=1', '-f', file],
  ]
  for (const args of ways) {
    const real = spawnSync('psql', ['-X', '-q', ...args], { encoding: 'utf8' })
    const ours = spawnSync(process.execPath, ['test/harness/psql.ts', '-X', '-q', ...args], {
      encoding: 'utf8',
    })
    const name = args.slice(1).join(' ')
    t.equal(ours.status, real.status, name)
    t.same(missingLines(ours.stdout, real.stdout), [], name)
    const said = /^(?:psql:\S+ )?(ERROR: .*)$/m
    t.equal(said.exec(ours.stderr)?.[1], said.exec(real.stderr)?.[1], name)
  }
})
