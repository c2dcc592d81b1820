import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { loadConfig, readConfig, type Use } from '../../src/config/load.ts'
import { readPeppers } from '../../src/config/peppers.ts'
import { writeJsonSchema } from '../../src/config/schema.ts'
import type { GateError } from '../../src/errors.ts'

const route = { name: 'a', auth: 'none', upstream: 'http://127.0.0.1:9001' }
const least = { database: { url: 'postgres://gate@127.0.0.1/gate' }, routes: [route] }
const read = (written: unknown, env = {}) =>
  readConfig(typeof written === 'string' ? written : JSON.stringify(written), '.', env)

function refusal(written: unknown, env = {}): GateError {
  try {
    read(written, env)
  } catch (error) {
    return error as GateError
  }
  throw new Error(`accepted ${JSON.stringify(written)}`)
}

t.test('defaults are there, units are numbers, paths absolute, everything frozen', async (t) => {
  const config = read({ ...least, limits: { header_bytes: '2KiB' }, drain_timeout: '1.5s' })
  t.equal(config.revocation.max_staleness, 5000)
  t.equal(config.limits.header_bytes, 2048)
  t.equal(config.drain_timeout, 1500)
  t.match(config.policy.bundles, /^\//)
  t.equal(config.routes[0]!.decision, 'gate/authz/decision')
  t.ok(config.workers >= 1)
  t.throws(() => Object.assign(config.routes[0]!, { auth: 'required' }))
})

t.test('one listener and an embedded database may be written in short', async (t) => {
  t.equal(read({ ...least, listen: { port: 1 } }).listen[0]!.port, 1)
  t.equal(read({ ...least, listen: [{ port: 1 }, { port: 2 }] }).listen.length, 2)
  t.match(read({ ...least, database: 'embedded' }).database.embedded, /\.dropgate\/postgres$/)
})

t.test('a variable is replaced by its value, which never becomes structure', async (t) => {
  const file =
    'database: {url: "${URL}"}\nworkers: ${N:-3}\nroutes: [{name: a, auth: none, upstream: "${UP:-http://127.0.0.1:1}"}]'
  t.equal(read(file, { URL: 'postgres://a@b/c' }).database.url, 'postgres://a@b/c')
  t.equal(read(file, { URL: 'postgres://a@b/c', N: '7' }).workers, 7)
  const unset = refusal(file)
  t.equal(unset.code, 'ERR_CONFIG_VARIABLE')
  t.match(unset.message, /database\.url: the variable URL is not set/)
  // What a variable holds is a value and never structure.
  const hostile = refusal(file, { URL: 'postgres://a@b/c"}\nadmin: {port: 1', N: '[1]' })
  t.match(hostile.message, /^workers: /m)
})

t.test('NAME_FILE names a file with the value of NAME', async (t) => {
  const folder = t.testdir({ password: 'p%40ss\n', empty: '' })
  const file = 'database: {url: "postgres://gate:${PASSWORD}@h/d"}\nroutes: [{name: a, auth: none, upstream: "http://127.0.0.1:1"}]' // biome-ignore format: a line
  const of = (env: NodeJS.ProcessEnv): string | undefined => read(file, env).database.url
  t.equal(of({ PASSWORD_FILE: join(folder, 'password') }), 'postgres://gate:p%40ss@h/d')
  t.equal(of({ PASSWORD: 'given', PASSWORD_FILE: '/no/such' }), 'postgres://gate:given@h/d')
  t.match(refusal(file, { PASSWORD_FILE: join(folder, 'empty') }).message, /PASSWORD is not set/)
  t.match(
    refusal(file, { PASSWORD_FILE: '/no/such' }).message,
    /^database\.url: the file \/no\/such, named by PASSWORD_FILE, cannot be read \(ENOENT\)$/,
  )
})

t.test('what was read by NAME_FILE is in no message, and neither is a database URL', async (t) => {
  const pem = `-----BEGIN PRIVATE KEY-----\n${'//secret'.repeat(60)}\n-----END PRIVATE KEY-----\n`
  const folder = t.testdir({ word: `${'secret'.repeat(12)}\n`, pem })
  const issuer = { issuer: 'https://i', audience: ['a'] }
  const cases: readonly (readonly [object, string])[] = [
    [{ database: { url: '${X}' } }, 'word'],
    [{ limits: { header_bytes: '${X}' } }, 'word'],
    [{ issuers: [{ ...issuer, audience: '${X}' }] }, 'word'],
    // Their value is a path: X itself has it, and not X_FILE.
    [{ revocation: { pepper_file: '${X}' } }, 'word'],
    [{ issuers: [{ ...issuer, jwks_file: '${X}' }] }, 'word'],
    [{ policy: { bundles: '${X}' } }, 'word'],
    [{ listen: { tls: { cert: '${X}', key: '${X}' } } }, 'pem'],
  ]
  for (const [written, name] of cases) {
    const { message, problems } = refusal({ ...least, ...written }, { X_FILE: join(folder, name) })
    t.notMatch(`${message}${JSON.stringify(problems)}`, /secret/, JSON.stringify(written))
    t.match(message, /not shown/)
  }
  t.notMatch(refusal({ ...least, database: { url: 'gate:secret@db/d' } }).message, /secret/)
})

t.test(
  'what a gate writes lies in state_dir, unless an option of its own says where',
  async (t) => {
    const of = (written: object, env = {}) => {
      const { admin, database, state_dir } = read({ ...least, ...written }, env)
      return { token: admin.token_file, embedded: database.embedded, state_dir }
    }
    const here = process.cwd()
    t.match(of({}), { state_dir: `${here}/.dropgate`, token: `${here}/.dropgate/admin.token` })
    t.match(of({ database: 'embedded' }), { embedded: `${here}/.dropgate/postgres` })
    t.match(of({ state_dir: '/var/lib/x', database: 'embedded' }), {
      token: '/var/lib/x/admin.token',
      embedded: '/var/lib/x/postgres',
    })
    t.match(of({ state_dir: 'state', database: 'embedded' }), {
      token: `${here}/state/admin.token`,
      embedded: `${here}/state/postgres`,
    })
    t.match(of({ state_dir: '${S:-/var/lib/x}' }, { S: '/run/x' }), { token: '/run/x/admin.token' })
    t.match(
      of({ state_dir: '/x', admin: { token_file: 't' }, database: { embedded: 'pg' } }),
      { token: `${here}/t`, embedded: `${here}/pg` },
      'relative to the file, not to state_dir',
    )
  },
)

t.test('a command knows where the state is, and a mistake there stops no other', async (t) => {
  const use = (written: string, uses: readonly Use[]) => readConfig(written, '/x', {}, { uses })
  const file = 'state_dir: s\ndatabase: embedded\n'
  t.equal(use(file, ['admin']).admin.token_file, '/x/s/admin.token')
  t.equal(use(file, ['database.embedded']).database.embedded, '/x/s/postgres')
  const broken = 'state_dir: ${S}\n'
  t.throws(() => use(broken, ['admin']), { message: /^state_dir: the variable S is not set/ })
  t.throws(() => use(`${broken}database: embedded`, ['database.embedded']), /^state_dir: /)
  use(`${broken}admin: {token_file: t}`, ['admin'])
  use(`${broken}database: {url: "postgres://a@b/c"}`, ['database.embedded', 'database.cli_url'])
})

t.test('what is wrong is said with its path, what was expected and the nearest key', async (t) => {
  const cases: [unknown, string, RegExp][] = [
    [{ ...least, routs: [] }, 'ERR_CONFIG_KEY_UNKNOWN', /^routs: unknown key; did you mean routes\?$/],
    [{ ...least, revocation: { max_stale: '1s' } }, 'ERR_CONFIG_KEY_UNKNOWN', /revocation\.max_stale: .*revocation\.max_staleness\?/],
    [{ ...least, routes: [{ ...route, methds: ['GET'] }] }, 'ERR_CONFIG_KEY_UNKNOWN', /routes\[0\]\.methds: .*routes\[0\]\.methods\?/],
    [{ ...least, zzzzzz: 1 }, 'ERR_CONFIG_KEY_UNKNOWN', /^zzzzzz: unknown key; the keys here are state_dir, listen, .*, labels$/],
    [{ ...least, __proto__x: 1 }, 'ERR_CONFIG_KEY_UNKNOWN', /unknown key/],
    [{ ...least, drain_timeout: 30 }, 'ERR_CONFIG_VALUE', /^drain_timeout: expected a duration such as .*found 30; write 30s for seconds/],
    [{ ...least, workers: 0 }, 'ERR_CONFIG_VALUE', /^workers: expected auto or/],
    [{ ...least, workers: 'many' }, 'ERR_CONFIG_VALUE', /^workers: expected auto or/],
    [{ ...least, routes: [] }, 'ERR_CONFIG_VALUE', /^routes: expected a list/],
    [{ routes: [route] }, 'ERR_CONFIG_VALUE', /database/],
    [{ ...least, database: { url: 'postgres://a,b:x/c' } }, 'ERR_CONFIG_VALUE', /^database\.url: a host or port is malformed$/],
    [{ ...least, database: { url: 'postgres://a/c?target_session_attrs=standby' } }, 'ERR_CONFIG_VALUE', /^database\.url: target_session_attrs=standby: expected read-write/],
    [{ ...least, routes: [{ ...route, upstream: 'http://a/path' }] }, 'ERR_CONFIG_VALUE', /routes\[0\]\.upstream: expected .* without a path/],
    [{ ...least, routes: [{ ...route, upstream: 'http://u:p@a' }] }, 'ERR_CONFIG_VALUE', /routes\[0\]\.upstream/],
    [{ ...least, routes: [{ ...route, auth: 'required' }] }, 'ERR_CONFIG_VALUE', /routes\[0\]\.auth: .*no issuers/],
    [{ ...least, routes: [route, route] }, 'ERR_CONFIG_VALUE', /routes\[1\]\.name: a is a duplicate/],
    [{ ...least, routes: [{ ...route, methods: ['get'] }] }, 'ERR_CONFIG_VALUE', /routes\[0\]\.methods\[0\]/],
    [{ ...least, issuers: [{ issuer: 'http://idp.example', audience: ['a'] }] }, 'ERR_CONFIG_VALUE', /issuers\[0\]\.issuer: expected an https URL/],
    [{ ...least, issuers: [{ issuer: 'https://i', audience: ['a'], algorithms: ['HS256'] }] }, 'ERR_CONFIG_VALUE', /algorithms\[0\]/],
    [{ ...least, issuers: [{ issuer: 'https://i', audience: ['a'], algorithms: ['none'] }] }, 'ERR_CONFIG_VALUE', /algorithms\[0\]/],
    [{ ...least, issuers: [{ issuer: 'https://i', audience: ['a'], jwks_file: 'no-such' }] }, 'ERR_CONFIG_FILE', /jwks_file/],
    [{ ...least, policy: { bundles: './no-such-folder' } }, 'ERR_CONFIG_FILE', /policy\.bundles: .*does not exist/],
    [{ ...least, revocation: { tick: '5s' } }, 'ERR_CONFIG_VALUE', /revocation\.tick/],
    [{ ...least, listen: { port: 8081 } }, 'ERR_CONFIG_VALUE', /^admin\.port: 8081 is already used by listen\[0\]\.port$/],
    [{ ...least, listen: [{ port: 1 }, { host: '::', port: 1 }] }, 'ERR_CONFIG_VALUE', /^listen\[1\]\.port: 1 is already used by listen\[0\]\.port$/],
    [{ ...least, listen: [{ host: '0.0.0.0', port: 1 }, { port: 1 }] }, 'ERR_CONFIG_VALUE', /^listen\[1\]\.port/],
    [{ ...least, decision_log: { sink: 'stdout', file: 'x' } }, 'ERR_CONFIG_VALUE', /^decision_log: expected either sink or file, not both$/],
    [{ ...least, upstream_networks: { deny: ['fe80::1/10'] } }, 'ERR_CONFIG_VALUE', /^upstream_networks\.deny\[0\]: fe80::1\/10 has bits set after its prefix/],
    [{ ...least, database: { url: 'mysql://x:secret@y/z' } }, 'ERR_CONFIG_VALUE', /database\.url: expected .*found a URL/],
    ['listen: {port: ${PORT}}', 'ERR_CONFIG_READ', /not valid YAML/],
    ['routes: [', 'ERR_CONFIG_READ', /not valid YAML/],
    ['a: 1\na: 2', 'ERR_CONFIG_READ', /not valid YAML/],
    ['a: &x 1\nb: *x', 'ERR_CONFIG_READ', /aliases/],
    ['- a', 'ERR_CONFIG_VALUE', /the file: expected a mapping/],
    ['', 'ERR_CONFIG_VALUE', /database|routes/],
  ] // biome-ignore format: a table
  for (const [written, code, message] of cases) {
    const error = refusal(written)
    t.equal(error.code, code, String(message))
    t.match(error.message, message)
    t.notMatch(error.message, /secret/)
    t.ok(error.hint ?? code === 'ERR_CONFIG_READ')
  }
})

t.test('each network, key set and port that is wrong is named, and no other', async (t) => {
  const trusted = ['10.0.0.0/33', '10.0.0.1/8', 'foo', '::ffff:10.0.0.0/104', '10.0.0.1', '::/0']
  const { message } = refusal({ ...least, listen: { trusted_proxies: trusted } })
  t.same(message.split('\n').map((line) => line.split(':')[0]).sort(), [0, 1, 2].map((i) => `listen[0].trusted_proxies[${i}]`)) // biome-ignore format: a line
  const apart = [{ host: '::1', port: 8081 }, { host: '0.0.0.0', port: 1 }, { host: '::1', port: 1 }, { port: 0 }, { port: 0 }] // biome-ignore format: a line
  t.equal(read({ ...least, listen: apart }).listen.length, 5)
  const key = '{"kty": "EC"}'
  const folder = t.testdir({ text: 'x', other: '{"a": 1}', empty: '{"keys": []}', key, fine: `{"keys": [${key}]}` }) // biome-ignore format: a line
  const keysOf = (name: string) => ({
    ...least,
    issuers: [{ issuer: 'https://i', audience: ['a'], jwks_file: join(folder, name) }],
  })
  for (const [name, said] of [
    ['text', /is not JSON; expected/],
    ['other', /is not a JWK set; expected/],
    ['empty', /holds no key; expected/],
    ['key', /is a single key; expected/],
    ['no-such', /cannot be read \(ENOENT\)/],
  ] as const)
    t.match(refusal(keysOf(name)), { code: 'ERR_CONFIG_FILE', message: said })
  t.equal(read(keysOf('fine')).issuers.length, 1)
})

t.test('an unquoted variable between braces gets a hint, and so do other mistakes', async (t) => {
  t.match(refusal('listen: {port: ${PORT}}').hint, /needs quotes/)
  t.match(refusal('a: 1\nb: [${A}, 1]').hint, /needs quotes/)
  t.match(refusal('a: {b: "${A}"').hint, /^a key is followed by a colon/)
})

t.test('a preset fills in what the file leaves open', async (t) => {
  const claimsOf = (issuer: object): unknown =>
    read({ ...least, issuers: [{ issuer: 'https://i', audience: ['a'], ...issuer }] }).issuers[0]
  t.match(claimsOf({ preset: 'entra' }), {
    claims: { token: '/uti', session: '/sid', tenant: '/tid', groups: '/groups' },
    token_types: 'any',
  })
  t.match(claimsOf({ preset: 'okta' }), { claims: { token: '/jti', client: '/cid' } })
  t.match(claimsOf({ preset: 'keycloak' }), { claims: { client: '/azp', groups: '/groups' } })
  t.match(claimsOf({ preset: 'auth0' }), { claims: { tenant: '/org_id' } })
  t.match(claimsOf({ preset: 'entra', claims: { tenant: '/own' }, token_types: 'at+jwt' }), {
    claims: { tenant: '/own', token: '/uti' },
    token_types: 'at+jwt',
  })
  const unknown = { ...least, issuers: [{ issuer: 'https://i', audience: ['a'], preset: 'x' }] }
  t.match(refusal(unknown).message, /preset: expected one of keycloak, entra, okta, auth0/)
})

t.test('peppers come from a file of their own that other users cannot read', async (t) => {
  const file = join(t.testdir({ pepper: `${'a'.repeat(32)}\n${'b'.repeat(40)}\n` }), 'pepper')
  chmodSync(file, 0o600)
  const written = { ...least, revocation: { pepper_file: file } }
  t.equal(read(written).revocation.pepper_file, file)
  t.same(readPeppers(file).map(String), ['a'.repeat(32), 'b'.repeat(40)])
  for (const [text, mode, message] of [
    ['a'.repeat(32), 0o640, /can be read by other users: chmod 600/],
    ['', 0o600, /has 0 secrets/],
    [`${'a'.repeat(32)}\nshort`, 0o600, /secret that is too short/],
    [`${'a'.repeat(32)}\n`.repeat(5), 0o600, /has 5 secrets/],
  ] as const) {
    writeFileSync(file, text)
    chmodSync(file, mode)
    const error = refusal(written)
    t.equal(error.code, 'ERR_CONFIG_FILE')
    t.match(error.message, message)
    t.notMatch(error.message, /aaaa/)
  }
  t.match(refusal({ ...least, revocation: { pepper_file: '/no/such' } }).message, /cannot be read/)
})

t.test('all problems are said at once', async (t) => {
  const error = refusal({ ...least, drain_timeout: 1, worker: 2, limits: { headers: 0 } })
  t.equal(error.message.split('\n').length, 3, error.message)
})

t.test('what one part says of another does not depend on a third being right', async (t) => {
  const file = `database: {url: "\${GATE_DB}"}
listen: {port: "\${PORT}", takeover: 3}
drain_timeout: 1
issuers: [{issuer: "https://i", audience: [a], jwks_file: no-such}, 7]
revocation: {tick: 5s}
limits: {header_bytes: 1B, headers: 0}
routes:
  - {name: a, upstream: "http://a/v1", auth: none}
  - {name: a, upstream: "http://b", auth: none, methds: [GET]}
  - {name: a, upstream: "http://c"}
`
  const { message, problems } = refusal(file)
  t.same(problems!.map(({ path }) => path).sort(), [
    'database.url', 'drain_timeout', 'issuers[0].jwks_file', 'issuers[1]', 'limits.header_bytes', 'limits.headers',
    'listen[0].port', 'listen[0].takeover', 'revocation.tick', 'routes[0].upstream', 'routes[1].methds', 'routes[2].name',
  ], message) // biome-ignore format: a list
  t.equal(message.split('\n').length, problems!.length)
  t.match(problems, [{ code: 'ERR_CONFIG_VARIABLE', message: /GATE_DB is not set/ }])
  for (const written of [
    { database: 3, routes: 3, issuers: 3, listen: 3, policy: 3, revocation: 3, decision_log: 3 },
    { ...least, issuers: null, listen: [null], routes: [null, [], { forward: 3, upstream: 3 }] },
    { ...least, upstream_networks: { deny: 'x' }, limits: [], labels: 3, workers: {}, admin: null },
  ])
    t.match(refusal(written), { code: 'ERR_CONFIG_VALUE' })
  const many = refusal({ ...least, ...Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`zz${i}zz`, 1])) }) // biome-ignore format: a line
  t.match(many.message, /\nand 10 more problems$/)
  t.equal(many.problems!.length, 30)
})

t.test('a command that uses a part is stopped by that part only', async (t) => {
  const use = (written: string, uses: readonly Use[], env = {}) =>
    readConfig(written, '.', env, { uses })
  const file = `database: {url: "\${GATE_DB}", cli_url: "postgres://cli@h/d"}
admin: {port: 9, prt: 1}
revocation: {tik: 5s, pepper_file: /no/such}
issuers: [{issuer: "https://i", audience: [a], jwks_file: no-such}]
routes: [{name: a, upstream: "\${UP}", decision: x/y}, {name: a, rwoute: 1}]
policy: {bundles: no-such, decision: gate/z}
nonsense: 1
`
  t.throws(() => use(`${file}}`, ['database']), { code: 'ERR_CONFIG_READ' }, 'it must be YAML')
  const cli = ['database.cli_url', 'database.schema'] as const
  t.match(use(file, cli).database, { cli_url: 'postgres://cli@h/d', url: undefined })
  t.same(
    use(file, ['policy.decision', 'routes.decision']).routes.map((r) => r.decision),
    ['x/y', 'gate/z'],
  )
  t.equal(use(file, ['drain_timeout']).drain_timeout, 30_000)
  const refused: [string, readonly Use[], RegExp][] = [
    [file, ['admin'], /^admin\.prt: unknown key; did you mean admin\.port\?$/],
    [file, ['database.migrate_url'], /^database\.url: the variable GATE_DB is not set[^\n]*$/],
    [file, ['revocation.pepper_file'], /^revocation\.pepper_file: \/no\/such cannot be read[^\n]*$/],
    [file, ['policy.bundles'], /^policy\.bundles: the folder [^\n]*$/],
    [file.replace('database:', 'databse:'), cli, /databse: unknown key; did you mean database\?/],
    [file.replace('cli_url', 'cliurl'), cli, /database\.cliurl: unknown key; did you mean database\.cli_url\?/],
    ['database: {schema: a}', cli, /^database\.url: missing[^\n]*$/],
    ['', cli, /^database\.url: missing[^\n]*$/],
    ['- a', cli, /^the file: expected a mapping/],
  ] // biome-ignore format: a table
  for (const [written, uses, message] of refused)
    t.throws(() => use(written, uses), { message }, `${uses}: ${message}`)
})

t.test('a file that is not there is refused; the one that is shipped is accepted', async (t) => {
  t.throws(() => loadConfig('/no/such/file.yaml', {}), { code: 'ERR_CONFIG_READ' })
  t.equal(loadConfig('dropgate.yaml', {}).config.routes.length, 3)
})

t.test('the schema for editors takes the shipped file as it is written', async (t) => {
  const { Ajv2020 } = await import('ajv/dist/2020.js')
  const { parse } = await import('yaml')
  const check = new Ajv2020({ strict: false }).compile(
    withoutRequired(JSON.parse(writeJsonSchema())),
  )
  t.ok(check(parse(readFileSync('dropgate.yaml', 'utf8'))), JSON.stringify(check.errors))
  t.notOk(check({ routs: [] }))
  for (const port of ['http', '${PORT', '8${PORT}', '80', 65536, true])
    t.notOk(check({ admin: { port } }), `${port}`)
})

/** Editors need not ask for what has a default. */
function withoutRequired(schema: unknown): object {
  return JSON.parse(
    JSON.stringify(schema, (key, value) => (key === 'required' ? undefined : value)),
  )
}
