/** Every kind of target: the keys Postgres makes are those a gate looks up, and what guards wide and false rows. */
import fc from 'fast-check'
import t from 'tap'
import { addressBytes } from '../../src/domain/address.ts'
import {
  claimKeys,
  type Kind,
  keyBytes,
  keyOf,
  keysOf,
  kinds,
  negatedKinds,
  networkKey,
} from '../../src/domain/revocation.ts'
import { blocksOf } from '../harness/pages.ts'
import { startPostgres } from '../harness/postgres.ts'
import { seedOf } from '../harness/wait.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const cli = await cluster.client('cli_url')
const owner = await cluster.client('migrate_url')
const thumbprint = `${'Ab-_'.repeat(10)}AbE`

type Columns = Record<string, unknown>

async function insert(columns: Columns, client = cli): Promise<string> {
  const names = Object.keys(columns)
  const { rows } = await client.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()}) RETURNING id`,
    Object.values(columns),
  )
  return rows[0].id
}

async function keysIn(columns: Columns): Promise<string[]> {
  const id = await insert(columns, owner)
  const { rows } = await owner.query('SELECT keys FROM dropgate.revocations WHERE id = $1', [id])
  const found: string[] = []
  for (let at = 0; at < rows[0].keys.length; at += keyBytes) {
    found.push(rows[0].keys.subarray(at, at + keyBytes).toString('hex'))
  }
  return found
}

async function refusal(run: Promise<unknown>): Promise<string> {
  try {
    await run
    return 'accepted'
  } catch (error) {
    return (error as { code: string }).code
  }
}

const hex = (kind: number, digest: Buffer): string =>
  Buffer.concat([Buffer.of(kind), digest]).toString('hex')
const key = (kind: Kind, issuer: string, value: string | Buffer): string =>
  hex(kinds[kind], keyOf(kind, issuer, value))
const claim = (issuer: string, pointer: string, value: unknown, which = 0): string =>
  hex(kinds.claim, claimKeys(issuer, pointer, value)[which]!)
const network = (address: string, prefix: number): string =>
  hex(kinds.network, networkKey(addressBytes(address)!, prefix))

t.test('keys are the ones an exchange is looked up by', async (t) => {
  const hash = Buffer.alloc(32, 7)
  for (const issuer of ['', 'https://idp.example/ä']) {
    const at = issuer === '' ? {} : { issuer }
    const expected: [Columns, string[]][] = [
      [{ token_hash: hash }, [key('token_hash', issuer, hash)]],
      [{ tenant: 'acme' }, [key('tenant', issuer, 'acme')]],
      [{ group_value: 'stäff' }, [key('group_value', issuer, 'stäff')]],
      [{ key_thumbprint: thumbprint }, [key('key_thumbprint', issuer, thumbprint)]],
      [{ proof_key: thumbprint }, [key('proof_key', issuer, thumbprint)]],
      [{ device_id: 'd-1' }, [key('device_id', issuer, 'd-1')]],
      [
        { claims: { '/b': true, '/a/x~1y': '1' } },
        [claim(issuer, '/a/x~1y', '1'), claim(issuer, '/b', true)],
      ],
      [
        { subject: 'a', except_session_id: 's' },
        [
          key('subject', issuer, 'a'),
          hex(negatedKinds.except_session_id, keyOf('session_id', issuer, 's')),
        ],
      ],
      [
        {
          tenant: 't',
          group_value: 'g',
          client_id: 'c',
          subject: 's',
          token_hash: hash,
          token_id: 'j',
        },
        [
          key('token_id', issuer, 'j'),
          key('token_hash', issuer, hash),
          key('subject', issuer, 's'),
          key('client_id', issuer, 'c'),
          key('group_value', issuer, 'g'),
          key('tenant', issuer, 't'),
        ],
      ],
    ]
    for (const [columns, keys] of expected) {
      t.same(await keysIn({ ...at, ...columns }), keys, Object.keys(columns).join())
    }
  }
  // What belongs to the exchange has no issuer inside, and comes first.
  t.same(await keysIn({ client_cert: thumbprint }), [key('client_cert', '', thumbprint)])
  t.same(await keysIn({ network: '192.0.2.0/24', subject: 'a', client_cert: thumbprint }), [
    key('client_cert', '', thumbprint),
    network('192.0.2.99', 24),
    key('subject', '', 'a'),
  ])
  t.same(await keysIn({ network: '192.0.2.0/24', issuer: 'i' }), [
    network('192.0.2.0', 24),
    key('issuer', 'i', ''),
  ])
  t.same(await keysIn({ network: '192.0.2.0/24', everyone: true }), [network('192.0.2.0', 24)])
})

t.test('networks of any length, and IPv4 in IPv6, have the keys that are looked up', async (t) => {
  for (const [given, address, prefix, stored] of [
    ['0.0.0.0/0', '203.0.113.9', 0, '0.0.0.0/0'],
    ['203.0.113.9/32', '203.0.113.9', 32, '203.0.113.9/32'],
    ['203.0.112.0/23', '203.0.113.9', 23, '203.0.112.0/23'],
    ['128.0.0.0/1', '203.0.113.9', 1, '128.0.0.0/1'],
    ['::ffff:203.0.113.0/120', '203.0.113.9', 24, '203.0.113.0/24'],
    ['::ffff:0:0/96', '203.0.113.9', 0, '0.0.0.0/0'],
    ['203.0.113.9', '::ffff:203.0.113.9', 32, '203.0.113.9/32'],
    ['::/0', '2001:db8::9', 0, '::/0'],
    ['2001:db8::/33', '2001:db8:7fff::9', 33, '2001:db8::/33'],
    ['2001:db8::9', '2001:db8:0:0:0:0:0:9', 128, '2001:db8::9/128'],
    ['fe80::/10', 'fe80::1%eth0', 10, 'fe80::/10'],
    ['::1.2.3.4', '::1.2.3.4', 128, '::1.2.3.4/128'],
  ] as const) {
    t.same(await keysIn({ network: given }), [network(address, prefix)], given)
    const { rows } = await owner.query(
      'SELECT network FROM dropgate.revocations ORDER BY id DESC LIMIT 1',
    )
    t.equal(rows[0].network, stored, given)
  }
})

t.test('claims of any type and spelling have the key of what JSON.parse reads', async (t) => {
  const seed = seedOf()
  t.comment(`SEED=${seed}`)
  const text = fc.string({ unit: 'binary', maxLength: 40 }).filter((s) => !s.includes('\0'))
  const value = fc.oneof(text, fc.boolean(), fc.maxSafeInteger())
  await fc.assert(
    fc.asyncProperty(value, async (each) => {
      t.same(await keysIn({ claims: { '/x': each } }), [
        claim('', '/x', JSON.parse(JSON.stringify(each))),
      ])
    }),
    { seed, numRuns: 100 },
  )
  for (const [written, read] of [
    ['1.0', 1],
    ['1e3', 1000],
    ['-0', 0],
    ['"1"', '1'],
    ['"\\u00e9\\ud83d\\ude00"', 'é😀'],
  ] as const) {
    t.same(await keysIn({ claims: `{"/x": ${written}}` }), [claim('', '/x', read)], written)
  }
  t.same(claimKeys('', '/x', { a: 1 }), [], 'an object is no value')
  t.same(claimKeys('', '/x', [1.5, null, '\ud800', {}]), [], 'nor is what no row can hold')
  t.equal(claimKeys('', '/x', ['a', 1]).length, 4, 'of a list, each element')
})

t.test('claims become known in the order of commits, and are never forgotten', async (t) => {
  const pointers = async (): Promise<string[]> =>
    (await owner.query('SELECT pointers FROM dropgate.state()')).rows[0].pointers
  await insert({ claims: { '/role': 'x' } })
  t.ok((await pointers()).includes('/role'))
  for (const statement of ['DELETE FROM', 'TRUNCATE', 'UPDATE']) {
    const set = statement === 'UPDATE' ? " SET pointer = 'x'" : ''
    t.equal(await refusal(owner.query(`${statement} dropgate.claim_pointers${set}`)), '42501')
  }
  // A second transaction that names the same new pointer waits for the first, so it can never commit without it.
  const other = await cluster.client('cli_url')
  await cli.query('BEGIN')
  await insert({ claims: { '/late': 'x' } })
  let ended = false
  const waiting = insert({ claims: { '/late': 'y' } }, other).then(() => {
    ended = true
  })
  await new Promise((resolve) => setTimeout(resolve, 100))
  t.equal(ended, false)
  await cli.query('ROLLBACK')
  await waiting
  t.ok((await pointers()).includes('/late'))
  const have = (await pointers()).length
  for (let i = have; i < 64; i++) await insert({ claims: { [`/p${i}`]: 'x' } })
  t.equal(await refusal(insert({ claims: { '/more': 'x' } })), '54000')
  t.equal(await refusal(insert({ claims: { '/role': 'another' } })), 'accepted')
})

t.test('a cutoff that lies ahead of the clock is refused, later as well', async (t) => {
  const inS = (s: number): Date => new Date(Date.now() + s * 1000)
  t.equal(await refusal(insert({ subject: 'a', issued_before: inS(60) })), '23514')
  t.equal(await refusal(insert({ subject: 'a', issued_before: inS(1) })), 'accepted')
  const id = await insert({ subject: 'a', issued_before: inS(-60) })
  const move = 'UPDATE dropgate.revocations SET issued_before = $2 WHERE id = $1'
  t.equal(await refusal(cli.query(move, [id, inS(60)])), '23514')
  t.equal(await refusal(cli.query(move, [id, inS(-10)])), 'accepted')
})

t.test('a cutoff that is moved is of the clock of Postgres', async (t) => {
  const at = new Date(Date.now() - 60_000)
  const id = await insert({ subject: 'a', event_time: at, issued_before: at })
  await cli.query("UPDATE dropgate.revocations SET reason = 'x' WHERE id = $1", [id])
  const exact = async (): Promise<boolean> =>
    (await owner.query('SELECT exact FROM dropgate.live WHERE id = $1', [id])).rows[0].exact
  t.equal(await exact(), true)
  await cli.query('UPDATE dropgate.revocations SET issued_before = now() WHERE id = $1', [id])
  t.equal(await exact(), false, 'so it gets the skew of the issuer')
})

t.test('the same revocation again is another row, by the same writer or another', async (t) => {
  const columns = { subject: 'again', reason: 'x', source: 's', source_event_id: 'e-1' }
  const ids = [await insert(columns), await insert(columns), await insert(columns, owner)]
  t.equal(new Set(ids).size, 3)
  await cli.query('DELETE FROM dropgate.revocations WHERE id = $1', [ids[0]])
  const { rows } = await owner.query(
    "SELECT count(*)::int AS n FROM dropgate.live l JOIN dropgate.revocations r USING (id) WHERE r.subject = 'again'",
  )
  t.equal(rows[0].n, 2)
})

t.test('only the break-glass role may write a wide row, or make one bite harder', async (t) => {
  await owner.query(
    "CREATE ROLE breaker LOGIN PASSWORD 'x'; GRANT dropgate_breakglass, dropgate_lifter TO breaker",
  )
  const breaker = await cluster.client('migrate_url')
  await breaker.query('SET ROLE breaker')
  const wide: Columns[] = [
    { everyone: true },
    { issuer: 'i' },
    { network: '10.0.0.0/7' },
    { network: '2000::/15' },
    { network: '::ffff:0:0/96' },
    { network: '0.0.0.0/0', issuer: 'i' },
    { issuer: 'i', except_session_id: 's' },
  ]
  for (const columns of wide) {
    t.equal(await refusal(insert(columns)), '42501', JSON.stringify(columns))
    t.equal(await refusal(insert(columns, breaker)), 'accepted', JSON.stringify(columns))
  }
  for (const columns of [
    { network: '10.0.0.0/8' },
    { network: '2001::/16' },
    { network: '0.0.0.0/0', subject: 'a' },
    { everyone: true, network: '10.1.0.0/16' },
  ]) {
    t.equal(await refusal(insert(columns)), 'accepted', JSON.stringify(columns))
  }
  const past = new Date(Date.now() - 60_000)
  const id = await insert({ everyone: true, issued_before: past, expires_at: past }, breaker)
  const set = (what: string): Promise<string> =>
    refusal(cli.query(`UPDATE dropgate.revocations SET ${what} WHERE id = $1`, [id]))
  t.equal(await set('issued_before = NULL'), '42501', 'a cutoff becomes a block')
  t.equal(await set('issued_before = now()'), '42501', 'a later cutoff')
  t.equal(await set('expires_at = NULL'), '42501', 'no end')
  t.equal(await set("expires_at = now() + interval '1 day'"), '42501', 'a later end')
  t.equal(await set("issued_before = issued_before - interval '1 day'"), 'accepted')
  t.equal(await set("reason = 'x'"), 'accepted')
  const block = await insert({ everyone: true }, breaker)
  const lift = 'UPDATE dropgate.revocations SET issued_before = now() WHERE id = $1'
  t.equal(await refusal(cli.query(lift, [block])), 'accepted', 'ending a block is lifting')
  await owner.query('DELETE FROM dropgate.revocations')
})

t.test('a row that is changed or deleted is kept as it was, with who and when', async (t) => {
  const id = await insert({ subject: 'alice', reason: 'left' })
  await cli.query("UPDATE dropgate.revocations SET reason = 'came back' WHERE id = $1", [id])
  await cli.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
  await owner.query('TRUNCATE dropgate.revocations')
  const { rows } = await owner.query(
    "SELECT action, by, row_id, image, at > now() - interval '1 minute' AS recent FROM dropgate.audit ORDER BY id DESC LIMIT 3",
  )
  t.match(rows.reverse(), [
    {
      action: 'UPDATE',
      by: 'cli',
      row_id: id,
      image: { subject: 'alice', reason: 'left' },
      recent: true,
    },
    { action: 'DELETE', by: 'cli', row_id: id, image: { reason: 'came back' }, recent: true },
    { action: 'TRUNCATE', by: 'migrator', row_id: null, image: null, recent: true },
  ])
  for (const statement of [
    'DELETE FROM dropgate.audit',
    'TRUNCATE dropgate.audit',
    "UPDATE dropgate.audit SET by = 'nobody'",
  ]) {
    t.equal(await refusal(owner.query(statement)), '42501', statement)
  }
})

t.test('the chain of actors is under the subject kind', async (t) => {
  const words = (keys: Uint32Array): string[] => {
    const bytes = Buffer.from(keys.buffer)
    return Array.from({ length: keys.length / 4 }, (_, i) =>
      bytes.subarray(i * 16, i * 16 + 16).toString('hex'),
    )
  }
  const held = words(
    keysOf({
      issuer: 'i',
      subject: 's',
      actors: [{ issuer: 'j', subject: 'service' }],
      sessionId: undefined,
      tokenId: undefined,
      clientId: undefined,
    }),
  )
  t.ok(held.includes(keyOf('subject', 'j', 'service').toString('hex')))
  t.ok(held.includes(keyOf('subject', '', 'service').toString('hex')))
})

t.test('what the runbook says about the audit and about claims works as the owner', async (t) => {
  const blocks = blocksOf('docs/runbook.md')
    .filter(({ language, text }) => language === 'sql' && text.startsWith('BEGIN;'))
    .map(({ text }) => text)
  t.equal(blocks.length, 2)
  await insert({ claims: { '/role': 'x' } }, owner)
  await owner.query('SET ROLE dropgate_owner')
  for (const block of blocks) await owner.query(block.replaceAll('/the/pointer', '/late'))
  await owner.query('RESET ROLE')
  const { rows } = await owner.query('SELECT pointers FROM dropgate.state()')
  t.notOk(rows[0].pointers.includes('/late'))
  t.ok(rows[0].pointers.includes('/role'))
  const { rows: left } = await owner.query('SELECT count(*)::int AS n FROM dropgate.audit')
  t.equal(left[0].n, 0)
  for (const table of ['audit', 'claim_pointers']) {
    t.equal(await refusal(owner.query(`DELETE FROM dropgate.${table}`)), '42501', 'guarded again')
  }
})
