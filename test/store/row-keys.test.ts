/** The keys that a command computes from the columns of a row are those that PostgreSQL has stored with it. */
import fc from 'fast-check'
import t from 'tap'
import { keysOfRow } from '../../src/domain/row-keys.ts'
import { startPostgres } from '../harness/postgres.ts'
import { seedOf } from '../harness/wait.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')

const name = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 }).filter((text) => !text.includes('\0') && text.isWellFormed()) // biome-ignore format: a line
// White space around a value is refused, but for claims.
const value = name.filter((text) => !/^[\t-\r ]|[\t-\r ]$/.test(text))
const bytes = fc.uint8Array({ minLength: 32, maxLength: 32 })
const thumbprint = bytes.map((each) => Buffer.from(each).toString('base64url'))
const claims = fc.dictionary(
  name.map((text) => `/${text.replaceAll('~', '~0').replaceAll('/', '~1')}`),
  fc.oneof(name, fc.boolean(), fc.maxSafeInteger()),
  { minKeys: 1, maxKeys: 4 },
)
const networks = ['10.0.0.0/8', '10.1.2.3/32', '0.0.0.0/0', '2001:db8::/32', '::1/128', '::ffff:10.0.0.0/120', '::/0'] // biome-ignore format: a line
const row = fc
  .record(
    {
      issuer: value,
      subject: value,
      session_id: value,
      token_id: value,
      token_hash: bytes.map((each) => Buffer.from(each)),
      client_id: value,
      tenant: value,
      group_value: value,
      key_thumbprint: thumbprint,
      client_cert: thumbprint,
      proof_key: thumbprint,
      device_id: value,
      network: fc.constantFrom(...networks),
      claims: fc.constant({ '/a': 'x' }),
      everyone: fc.constant(true),
      except_session_id: value,
    },
    { requiredKeys: [] },
  )
  .filter(({ except_session_id: _, ...columns }) => Object.keys(columns).length > 0)

async function compare(columns: Record<string, unknown>): Promise<void> {
  const names = Object.keys(columns)
  const { rows } = await owner.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()}) RETURNING id, keys`,
    Object.values(columns),
  )
  const { rows: active } = await owner.query(
    'SELECT predicates FROM dropgate.active WHERE id = $1',
    [rows[0].id],
  )
  const computed = Buffer.from(keysOfRow(active[0].predicates)).toString('hex')
  if (computed !== rows[0].keys.toString('hex')) {
    throw new Error(
      `${JSON.stringify(active[0].predicates)}: ${computed} is not ${rows[0].keys.toString('hex')}`,
    )
  }
}

t.test('for any columns', async () => {
  const property = fc.asyncProperty(row, (columns) => compare(columns))
  await fc.assert(property, { numRuns: 300, seed: seedOf() })
})

t.test('for claims of each type, in any order', async () => {
  // A database knows 64 different claims at most.
  for (const each of fc.sample(claims, { numRuns: 12, seed: seedOf() }))
    await compare({ claims: each, issuer: 'i' })
  await compare({ claims: { '/b': 1, '/B': true, '/é': 'x', '/a': '1' } })
})
