/** Where root keeps a cluster whose folder PostgreSQL's user cannot enter: in a folder to which every user may write. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { EmbeddedPostgres } from '../../src/embedded/postgres.ts'

const skip = process.getuid?.() === 0 ? false : 'only root keeps it there'

t.test('a link that another user has put there is not followed', { skip }, async (t) => {
  const folder = t.testdir({ cluster: {}, victim: { data: { file: 'of another program' } } })
  const [directory, victim] = [join(folder, 'cluster'), join(folder, 'victim')]
  mkdirSync(join(directory, 'closed'), { mode: 0o700 })
  const wanted = join(directory, 'closed/postgres')
  mkdirSync(wanted)
  const name = createHash('sha256').update(wanted).digest('hex').slice(0, 16)
  const link = join('/var/tmp', `dropgate-${name}`)
  symlinkSync(victim, link)
  t.teardown(() => rmSync(link))
  // It is not started: a folder without programs is enough.
  const postgres = new EmbeddedPostgres({
    ...{ directory: wanted, schema: 'dropgate', rolePrefix: 'dropgate_', native: '/usr/bin' },
    log: { info: () => {} },
  })
  const { mode } = statSync(victim)
  await t.rejects(postgres.open(), { code: 'ERR_DATABASE_EMBEDDED', message: link })
  t.ok(existsSync(join(victim, 'data/file')))
  t.equal(statSync(victim).mode, mode)
})
