/**
 * What is wrong with a row is said in words: every column with every kind of bad value, each with its SQLSTATE, a message
 * that names the column and a hint that is a whole sentence; what is only doubtful is warned of.
 */
import type pg from 'pg'
import t from 'tap'
import { toDatabaseError } from '../../src/store/database-error.ts'
import { insertRevocation, liftRevocation, refuseTokens } from '../../src/store/statements.ts'
import { startPostgres } from '../harness/postgres.ts'

const cluster = await startPostgres()
t.teardown(() => cluster.close())
const owner = await cluster.client('migrate_url')
const cli = await cluster.client('cli_url')

type Row = Record<string, unknown>
interface Told {
  readonly severity?: string | undefined
  readonly message?: string | undefined
  readonly hint?: string | undefined
}
let told: Told[] = []
for (const client of [owner, cli]) {
  client.on('notice', ({ severity, message, hint }) => told.push({ severity, message, hint }))
}
t.beforeEach(async () => {
  await owner.query('TRUNCATE dropgate.revocations')
  told = []
})

async function insert(row: Row, client: pg.Client = cli): Promise<string> {
  const names = Object.keys(row)
  const { rows } = await client.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${names.map((_, i) => `$${i + 1}`).join()}) RETURNING id`,
    Object.values(row),
  )
  return rows[0].id
}

interface Refused {
  readonly code: string
  readonly message: string
  readonly hint: string
  readonly column: string
  readonly constraint: string
  readonly detail?: string
}

async function refused(run: Promise<unknown>): Promise<Refused> {
  return await run.then(
    () => ({ code: 'accepted', message: '', hint: '', column: '', constraint: '' }),
    (error: Refused) => error,
  )
}

/** Begins with a capital letter, ends with a full stop, says what to do. */
const sentence =
  /^(?:Write|Omit|Set|Run|Revoke|Leave|Take|Name|Shorten|Insert|Lift|Configure|To|The nearest)\b.{12,}\.$/s

const jwt = 'eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl'
const hexThumbprint = 'ab'.repeat(32)
const thumbprint = Buffer.from(hexThumbprint, 'hex').toString('base64url')

interface Case {
  readonly row: Row
  readonly column: string
  readonly says: RegExp | string
  readonly hint?: RegExp | string
  readonly code?: string
}

const compared = [
  'issuer',
  'subject',
  'session_id',
  'token_id',
  'client_id',
  'tenant',
  'group_value',
  'device_id',
  'except_session_id',
] as const
const notes = { reason: 4096, source: 1024, source_event_id: 1024 } as const
const thumbprints = ['key_thumbprint', 'client_cert', 'proof_key'] as const
const times = ['issued_before', 'expires_at', 'event_time'] as const

const texts: Case[] = compared.flatMap((column) => {
  const whole = (value: unknown): Row => ({ network: '10.0.0.0/8', [column]: value })
  return [
    { row: whole(''), column, says: `${column} is empty`, hint: /^Omit .* matches no token/ },
    {
      row: whole('a'.repeat(1025)),
      column,
      says: `${column} has 1025 bytes, and at most 1024 fit: "aaa`,
    },
    { row: whole('☃'.repeat(342)), column, says: `${column} has 1026 bytes` },
    ...[' a', 'a ', 'a\n', '\ta', 'a\r', ' '].map((value) => ({
      row: whole(value),
      column,
      says: `${column} begins or ends with white space: ${JSON.stringify(value)}`,
      hint: value === ' ' ? /what the token has/ : `Write ${column} = 'a'.`,
    })),
    {
      row: whole(`${"o'brien ".repeat(20)}`),
      column,
      says: /white space: "o'brien o'brien o'brien \.\.\."$/,
      hint: 'it without the white space',
    },
    ...[
      jwt,
      `Bearer ${jwt}`,
      `${jwt}\n`,
      `eyJhbGciOiJkaXIifQ..aXY.Y2lwaGVy.dGFn`,
      'Bearer opaque',
    ].map((value) => ({
      row: whole(value),
      column,
      says: `${column} has what looks like a whole token`,
      hint: /`dropgate revoke --token -`.*log of this server/,
    })),
  ]
})

const noted: Case[] = Object.entries(notes).flatMap(([column, most]) => [
  {
    row: { subject: 'a', [column]: 'r'.repeat(most + 1) },
    column,
    says: `${column} has ${most + 1} bytes, and at most ${most} fit`,
  },
  {
    row: { subject: 'a', [column]: `they had ${jwt}` },
    column,
    says: `${column} has what looks like a whole token`,
    hint: 'The log of this server may have',
  },
])

const digests: Case[] = [
  ...thumbprints.flatMap((column) => {
    const say = (value: string, hint: RegExp | string): Case => ({
      row: { [column]: value },
      column,
      says: `${column} is not a SHA-256 thumbprint in base64url: "`,
      hint,
    })
    const write = `Write ${column} = '${thumbprint}'.`
    const colons = hexThumbprint.toUpperCase().match(/../g)!.join(':')
    return [
      say(hexThumbprint, write),
      say(colons, write),
      say(Buffer.from(hexThumbprint, 'hex').toString('base64'), write),
      say(`${thumbprint} `, write),
      say('ab'.repeat(20), 'SHA-1'),
      say(Buffer.alloc(20, 1).toString('base64url'), 'SHA-1'),
      say('', '43 characters'),
      say('a'.repeat(42), '43 characters'),
      // Another spelling of the same bytes.
      say(`${'a'.repeat(42)}b`, '43 characters'),
      say('none', '43 characters'),
    ]
  }),
  ...[0, 31, 33, 64].map((length) => ({
    row: { token_hash: Buffer.alloc(length) },
    column: 'token_hash',
    says: `token_hash has ${length} bytes, not 32`,
    hint: '`dropgate revoke --token -`',
  })),
]

const timed: Case[] = times.flatMap((column) =>
  ['infinity', '-infinity', '1999-12-31 23:59:59Z', '2200-01-01 00:00:01Z', '4713-01-01 BC'].map(
    (at) => ({
      row: { subject: 'a', [column]: at },
      column,
      says: new RegExp(
        `^${column} is .*(?:infinity|1999|2200|4713).*, not between the years 2000 and 2200$`,
      ),
      hint: `omit ${column}`,
    }),
  ),
)

const claims: Case[] = (
  [
    ['[]', 'claims is not an object but an array', '{"/role": "admin"}'],
    ['"x"', 'claims is not an object but a string', '{"/role": "admin"}'],
    ['3', 'claims is not an object but a number', '{"/role": "admin"}'],
    ['null', 'claims is not an object but the JSON null', '{"/role": "admin"}'],
    [{}, 'claims names no claim', 'Write at least one claim'],
    [
      Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`/${i}`, 1])),
      'more than 16 claims',
      'at most 16',
    ],
    [{ role: 1 }, 'claims has "role", which is not a JSON pointer', 'such as "/role"'],
    [{ '': 1 }, 'claims has "", which is not a JSON pointer', 'such as "/role"'],
    [
      { '/fine': 1, 'a~b/c': 1 },
      'claims has "a~b/c", which is not a JSON pointer',
      'such as "/a~0b~1c"',
    ],
    [{ '/a~2': 1 }, 'claims has "/a~2", which is not a JSON pointer', '~0 stands for ~'],
    [
      { [`/${'p'.repeat(256)}`]: 1 },
      'claims has a pointer of 257 bytes, and at most 256 fit',
      'another claim',
    ],
    [{ '/a': null }, 'claim "/a" is null', 'Write a text, a boolean or an integer for "/a"'],
    [{ '/a': ['x'] }, 'claim "/a" is an array', 'one row for each value'],
    [{ '/a': { b: 1 } }, 'claim "/a" is an object', 'Write a text'],
    [{ '/a': 'x'.repeat(1025) }, 'claim "/a" has 1025 bytes', 'cannot be matched'],
    [{ '/a': 1.5 }, 'claim "/a" is 1.5, which is no integer', 'Write an integer'],
    [
      '{"/a": 9007199254740992}',
      'claim "/a" is 9007199254740992, which JSON readers',
      'from -9007',
    ],
    ['{"/a": -1e400}', /^claim "\/a" is -1000+, which JSON readers/, 'Write an integer'],
    [{ '/a': jwt }, 'claims has what looks like a whole token', '`dropgate revoke --token -`'],
    [{ [jwt]: 1 }, 'claims has a token, which is not a JSON pointer', 'such as'],
  ] as const
).map(([value, says, hint]) => ({
  row: { subject: 'a', claims: typeof value === 'string' ? value : JSON.stringify(value) },
  column: 'claims',
  says,
  hint,
}))

const rows: Case[] = [
  {
    row: { reason: 'x' },
    column: 'everyone',
    says: 'the revocation has no target',
    hint: 'Set at least one of subject',
  },
  { row: { everyone: false }, column: 'everyone', says: 'has no target' },
  { row: { everyone: null }, column: 'everyone', says: 'everyone is null', code: '23502' },
  {
    row: { subject: 'a', everyone: null },
    column: 'everyone',
    says: 'everyone is null',
    code: '23502',
  },
  { row: { issued_before: '2026-01-01Z' }, column: 'everyone', says: 'has no target' },
  {
    row: { except_session_id: 's' },
    column: 'except_session_id',
    says: 'except_session_id only spares a session',
    hint: 'Set also whom it hits',
  },
  {
    row: { subject: 'a', compare: 'auth_time' },
    column: 'compare',
    says: 'compare is auth_time, but issued_before is not set',
    hint: 'Set issued_before',
  },
  {
    row: { subject: 'a', compare: 'nbf', issued_before: '2026-01-01Z' },
    column: 'compare',
    says: 'compare is "nbf", not iat or auth_time',
  },
  { row: { subject: 'a', compare: '' }, column: 'compare', says: 'compare is "", not iat' },
  {
    row: { subject: 'a', compare: null },
    column: 'compare',
    says: 'compare is null',
    code: '23502',
  },
  {
    row: { subject: 'a', issued_before: new Date(Date.now() + 86_400_000) },
    column: 'issued_before',
    says: /^issued_before is 20.*\+00, which lies in the future: here it is 20.*\+00$/,
    hint: 'Omit issued_before to insert a block',
  },
]

const all = [...texts, ...noted, ...digests, ...timed, ...claims, ...rows]

t.test('every bad value of every column is refused in words', async (t) => {
  for (const { row, column, says, hint = /./, code = '23514' } of all) {
    const error = await refused(insert(row, owner))
    const what = JSON.stringify(row).slice(0, 80)
    t.match(error, { code, message: says, hint, column }, what)
    t.match(error.hint, sentence, what)
    t.notOk(JSON.stringify(error).includes(jwt.slice(0, 24)), 'no error repeats a token')
  }
  t.comment(`${all.length} rows`)
  const { rows } = await owner.query('SELECT count(*)::int AS n FROM dropgate.revocations')
  t.equal(rows[0].n, 0)
})

t.test('each CHECK has a rule before it, which names it', async (t) => {
  const named = new Set<string>()
  for (const { row } of all) named.add((await refused(insert(row, owner))).constraint)
  const { rows } = await owner.query(
    `SELECT conname FROM pg_constraint WHERE conrelid = 'dropgate.revocations'::regclass AND contype = 'c'`,
  )
  t.ok(rows.length >= 18)
  for (const { conname } of rows) t.ok(named.has(conname), conname)
})

t.test(
  'a value of another type is refused by PostgreSQL; commands pass on what it says',
  async (t) => {
    for (const [values, code, message, hint] of [
      [
        "(network) VALUES ('10.0.0.1/8')",
        '22P02',
        /cidr value: "10\.0\.0\.1\/8": Value has bits set.* at character \d+ \(22P02\)$/,
        /10\.0\.0\.0\/8/,
      ],
      ["(network) VALUES ('home')", '22P02', /type cidr: "home" at character/, /10\.0\.0\.0\/8/],
      ["(claims) VALUES ('{')", '22P02', /type json/, /"\/role"/],
      [
        "(subject, expires_at) VALUES ('a', 'NaN')",
        '22007',
        /timestamp with time zone: "NaN"/,
        /write a time like/,
      ],
      [
        "(subject, expires_at) VALUES ('a', '2026-02-30')",
        '22008',
        /out of range/,
        /write a time like/,
      ],
      [
        "(subjekt) VALUES ('a')",
        '42703',
        /"subjekt".* at character 35 \(42703\)$/,
        /check the name/,
      ],
      ["(subject) VALUES ('a'", '42601', /syntax error at end of input at character/, /check how/],
    ] as const) {
      const error = await refused(cli.query(`INSERT INTO dropgate.revocations ${values}`))
      t.equal(error.code, code, values)
      t.match(toDatabaseError(error), { code: 'ERR_DATABASE_REFUSED', message, hint }, values)
    }
    const { message, hint } = toDatabaseError(await refused(insert({ subject: '' })))
    t.equal(message, 'PostgreSQL refused the statement: subject is empty (23514)')
    t.match(hint, /^Omit subject/)
  },
)

t.test('white space and tokens that are there may stay, and be lifted', async (t) => {
  await owner.query('ALTER TABLE dropgate.revocations DISABLE TRIGGER a_prepare')
  const { rows } = await owner.query(
    `INSERT INTO dropgate.revocations (subject, reason, keys, key_version) VALUES (' a', $1, '\\x03', 2) RETURNING id`,
    [jwt],
  )
  await owner.query('ALTER TABLE dropgate.revocations ENABLE ALWAYS TRIGGER a_prepare')
  const { id } = rows[0]
  await liftRevocation(cli, 'dropgate', id, false)
  const reason = await refused(
    cli.query('UPDATE dropgate.revocations SET reason = $1 WHERE id = $2', ['x'.repeat(4097), id]),
  )
  t.equal(reason.code, '23514', 'the CHECK is there still')
  const other = await refused(
    owner.query('UPDATE dropgate.revocations SET subject = $1 WHERE id = $2', [' b', id]),
  )
  t.match(other.message, /^subject begins or ends/)
  await owner.query("SET session_replication_role = 'replica'")
  await insert({ subject: ' copied' }, owner)
  await owner.query('RESET session_replication_role')
})

t.test('a claim may begin and end with white space, and is warned of', async (t) => {
  const error = await refused(insert({ subject: "o'brien " }))
  const [, advised] = /claims = ('.*')\.$/.exec(error.hint)!
  await cli.query(`INSERT INTO dropgate.revocations (claims) VALUES (${advised})`)
  const { rows } = await owner.query('SELECT claims FROM dropgate.revocations')
  t.same(rows, [{ claims: { '/sub': "o'brien " } }], 'as the hint says')
  t.match(told, [
    {
      severity: 'WARNING',
      message: 'the value of claim "/sub" begins or ends with white space',
      hint: sentence,
    },
  ])
})

t.test('rows that have ended already are warned of, all at once', async (t) => {
  const past = new Date(Date.now() - 1000)
  const one = await insert({ subject: 'a', expires_at: past })
  await insert({ subject: 'a', expires_at: new Date(Date.now() + 3600_000) })
  t.match(told, [
    { severity: 'WARNING', message: `revocation ${one} has ended already`, hint: sentence },
  ])
  t.equal(told.length, 1)
  await cli.query(
    "INSERT INTO dropgate.revocations (subject, expires_at) SELECT 'a', now() FROM generate_series(1, 300)",
  )
  t.equal(told.length, 2)
  t.match(told[1]!.message, /has ended already, and so have 299 others of this statement$/)
})

t.test('an unknown issuer is warned of, with the nearest that a gate knows', async (t) => {
  const gate = await cluster.client('url')
  const id = '11111111-1111-1111-1111-111111111111'
  const known = ['https://idp.example/realms/shop', 'https://login.example', '']
  const beat = {
    ...{ host: 'h', pid: 1, version: '0', started_at: new Date(), ready: true, cursor: null },
    ...{ age_ms: 1, rows: 0, allows_ms: 5000, peppers: [], token_lifetime_ms: 1, policies: {} },
    matches: Object.fromEntries(known.map((issuer) => [issuer, ['tenant']])),
  }
  await gate.query('SELECT dropgate.beat($1, $2)', [id, JSON.stringify(beat)])
  t.teardown(() => gate.query('SELECT dropgate.leave($1)', [id]))
  for (const [issuer, nearest] of [
    ['https://idp.example/realms/shop/', known[0]],
    ['http://idp.example/realms/shop', known[0]],
    ['https://idp.example/realms/shoq', known[0]],
    ['https://login.example/', known[1]],
    ['urn:elsewhere', undefined],
  ] as const) {
    told = []
    const row = await insert({ issuer, subject: 'a' })
    t.equal(told[0]?.message, `no gate can match revocation ${row}`)
    t.match(told[0]!.hint, sentence)
    if (nearest === undefined) t.match(told[0]!.hint, `of issuer ${issuer}`)
    else
      t.match(told[0]!.hint, `issuer that a gate knows is ${nearest}, and the row has ${issuer}:`)
    const refusal = insertRevocation(
      cli,
      'dropgate',
      { issuer, subject: 'a' },
      { force: false, wait: false, pepper: undefined },
    )
    const hint =
      nearest === undefined
        ? /^set issuers/
        : `the nearest issuer that a gate knows is ${nearest}: set`
    await t.rejects(refusal, { code: 'ERR_UNMATCHED', hint })
  }
  told = []
  await insert({ issuer: known[0], subject: 'a' })
  await insert({ issuer: known[0], device_id: 'd' })
  t.match(
    told,
    [{ hint: `Configure a gate for device_id of issuer ${known[0]}, or` }],
    'known, but not that column',
  )
})

t.test(
  'a gate that accepts every tenant matches rows of each, by the name that its tokens have',
  async (t) => {
    const gate = await cluster.client('url')
    const id = '22222222-2222-2222-2222-222222222222'
    const pattern = 'https://login.example/{tenantid}/v2.0'
    const beat = {
      ...{ host: 'h', pid: 1, version: '0', started_at: new Date(), ready: true, cursor: null },
      ...{ age_ms: 1, rows: 0, allows_ms: 5000, peppers: [], token_lifetime_ms: 1, policies: {} },
      matches: { [pattern]: ['tenant'], '': [] },
    }
    await gate.query('SELECT dropgate.beat($1, $2)', [id, JSON.stringify(beat)])
    t.teardown(() => gate.query('SELECT dropgate.leave($1)', [id]))
    const tenant = '9122040d-6c67-4c5b-b112-36a304b66dad'
    const warned = async (issuer: string): Promise<boolean> => {
      told = []
      await insert({ issuer, subject: 'a' })
      const refused = insertRevocation(
        cli,
        'dropgate',
        { issuer, subject: 'a' },
        { force: false, wait: false, pepper: undefined },
      ).then(
        () => false,
        () => true,
      )
      t.equal(await refused, told.length > 0, 'the command and the database say the same')
      return told.length > 0
    }
    t.equal(await warned(pattern.replace('{tenantid}', tenant)), false)
    for (const wrong of [
      pattern,
      pattern.replace('{tenantid}', 'common'),
      pattern.replace('{tenantid}', tenant.toUpperCase()),
      pattern.replace('{tenantid}', `${tenant}0`),
      pattern.replace('{tenantid}', `${tenant}/${tenant}`),
      `https://evil.example/${tenant}/v2.0`,
    ])
      t.equal(await warned(wrong), true, wrong)
  },
)

t.test('what ends a revocation without a cutoff says so', async (t) => {
  const say = async (statement: string, client = cli): Promise<Told[]> => {
    told = []
    await client.query(statement)
    return told
  }
  const of = (subjects: string): string => `dropgate.revocations WHERE subject IN (${subjects})`
  for (const subject of ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'])
    await insert({ subject })
  const { rows } = await owner.query('SELECT min(id)::int AS first FROM dropgate.revocations')
  const { first } = rows[0]

  const one = await say(`DELETE FROM ${of("'a'")}`)
  t.match(one, [
    {
      severity: 'NOTICE',
      message: `the deletion of revocation ${first} leaves no cutoff: tokens that were stolen before live again`,
      hint: sentence,
    },
  ])
  t.match(one[0]!.hint, '`dropgate lift ID`')
  const many = await say('DELETE FROM dropgate.revocations')
  t.match(
    many[0]!.message,
    `of 9 revocations (${[1, 2, 3, 4, 5].map((i) => first + i).join(', ')}, ...) leaves`,
  )

  const set = (what: string): Promise<Told[]> => say(`UPDATE dropgate.revocations SET ${what}`)
  const ends = [
    {
      severity: 'NOTICE',
      message: /^the update of revocation \d+ leaves no cutoff/,
      hint: sentence,
    },
  ]
  for (const [what, before] of [
    ['expires_at = now()', {}],
    ["issued_before = '2026-01-01Z'", {}],
    ["issued_before = '2026-01-01Z'", { issued_before: '2026-01-02Z' }],
  ] as const) {
    await owner.query('TRUNCATE dropgate.revocations')
    await insert({ subject: 'a', ...before })
    t.match(await set(what), ends, what)
  }
  for (const [what, before] of [
    ['issued_before = now()', {}],
    ["issued_before = now() - interval '10 s'", {}],
    ["reason = 'x'", {}],
    ["expires_at = now() + interval '1 hour'", {}],
    ["issued_before = '2026-01-02Z'", { issued_before: '2026-01-01Z' }],
    ['issued_before = NULL', { issued_before: '2026-01-01Z' }],
    ["expires_at = now() - interval '1 s'", { expires_at: new Date(Date.now() - 60_000) }],
  ] as const) {
    await owner.query('TRUNCATE dropgate.revocations')
    await insert({ subject: 'a', ...before })
    t.same(await set(what), [], what)
  }
  await owner.query('TRUNCATE dropgate.revocations')
  await insert({ subject: 'ended', expires_at: new Date(Date.now() - 1000) })
  t.same(await say('DELETE FROM dropgate.revocations'), [], 'what has ended')
  t.same(await say('DELETE FROM dropgate.revocations WHERE false'), [], 'nothing')
  await insert({ subject: 'lifted' })
  const { rows: stored } = await owner.query('SELECT id FROM dropgate.revocations')
  told = []
  await liftRevocation(cli, 'dropgate', stored[0].id, false)
  t.same(told, [], 'a lift')
})

t.test('purges and canaries say nothing', async (t) => {
  await insert({ subject: 'a', issued_before: '2020-01-01Z' })
  await insert({ subject: 'b', expires_at: new Date(Date.now() - 7_200_000) })
  told = []
  const { rows } = await cli.query('SELECT revocations FROM dropgate.purge(100)')
  t.equal(rows[0].revocations, '2')
  await owner.query('SELECT dropgate.canary(1000)')
  await owner.query("UPDATE dropgate.waits SET at = at - interval '1 min'")
  await owner.query('SELECT dropgate.canary(1000)')
  await owner.query("DELETE FROM dropgate.revocations WHERE source = 'dropgate canary'")
  t.same(told, [])
})

t.test('commands send no token', async (t) => {
  const error = { code: 'ERR_USAGE', hint: /dropgate revoke --token -/ }
  t.throws(() => refuseTokens([`DELETE FROM x WHERE subject = '${jwt}'`]), error)
  t.doesNotThrow(() => refuseTokens(['SELECT 1', 'eyJ', 'eyJhbGci.x']))
  const options = { force: true, wait: false, pepper: undefined }
  await t.rejects(insertRevocation(cli, 'dropgate', { subject: jwt }, options), error)
  await t.rejects(
    insertRevocation(cli, 'dropgate', { subject: 'a', claims: { '/a': jwt } }, options),
    error,
  )
  const { rows } = await owner.query(
    'SELECT dropgate.has_token($1) AS one, dropgate.has_token($2) AS other',
    [jwt, 'eyJhbGci.x'],
  )
  t.same(rows[0], { one: true, other: false }, 'as the database does')
})
