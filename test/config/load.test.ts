import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { loadConfig, readConfig } from '../../src/config/load.ts'
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

t.test('short forms', async (t) => {
  t.equal(read({ ...least, listen: { port: 1 } }).listen[0]!.port, 1)
  t.equal(read({ ...least, listen: [{ port: 1 }, { port: 2 }] }).listen.length, 2)
  t.match(read({ ...least, database: 'embedded' }).database.embedded, /\.dropgate\/postgres$/)
})

t.test('variables', async (t) => {
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

t.test('what is wrong is said with its path, what was expected and the nearest key', async (t) => {
  const cases: [unknown, string, RegExp][] = [
    [{ ...least, routs: [] }, 'ERR_CONFIG_KEY_UNKNOWN', /^routs: unknown key; did you mean routes\?$/],
    [{ ...least, revocation: { max_stale: '1s' } }, 'ERR_CONFIG_KEY_UNKNOWN', /revocation\.max_stale: .*revocation\.max_staleness\?/],
    [{ ...least, routes: [{ ...route, methds: ['GET'] }] }, 'ERR_CONFIG_KEY_UNKNOWN', /routes\[0\]\.methds: .*routes\[0\]\.methods\?/],
    [{ ...least, zzzzzz: 1 }, 'ERR_CONFIG_KEY_UNKNOWN', /^zzzzzz: unknown key$/],
    [{ ...least, __proto__x: 1 }, 'ERR_CONFIG_KEY_UNKNOWN', /unknown key/],
    [{ ...least, drain_timeout: 30 }, 'ERR_CONFIG_VALUE', /^drain_timeout: expected a duration such as .*found 30$/],
    [{ ...least, workers: 0 }, 'ERR_CONFIG_VALUE', /^workers: expected auto or/],
    [{ ...least, workers: 'many' }, 'ERR_CONFIG_VALUE', /^workers: expected auto or/],
    [{ ...least, routes: [] }, 'ERR_CONFIG_VALUE', /^routes: expected a list/],
    [{ routes: [route] }, 'ERR_CONFIG_VALUE', /database/],
    [{ ...least, routes: [{ ...route, upstream: 'http://a/path' }] }, 'ERR_CONFIG_VALUE', /routes\[0\]\.upstream/],
    [{ ...least, routes: [{ ...route, upstream: 'http://u:p@a' }] }, 'ERR_CONFIG_VALUE', /routes\[0\]\.upstream/],
    [{ ...least, routes: [{ ...route, auth: 'required' }] }, 'ERR_CONFIG_VALUE', /routes\[0\]\.auth: .*no issuers/],
    [{ ...least, routes: [route, route] }, 'ERR_CONFIG_VALUE', /routes\[1\]\.name: a is there twice/],
    [{ ...least, routes: [{ ...route, methods: ['get'] }] }, 'ERR_CONFIG_VALUE', /routes\[0\]\.methods\[0\]/],
    [{ ...least, issuers: [{ issuer: 'http://idp.example', audience: ['a'] }] }, 'ERR_CONFIG_VALUE', /issuers\[0\]\.issuer: expected an https URL/],
    [{ ...least, issuers: [{ issuer: 'https://i', audience: ['a'], algorithms: ['HS256'] }] }, 'ERR_CONFIG_VALUE', /algorithms\[0\]/],
    [{ ...least, issuers: [{ issuer: 'https://i', audience: ['a'], algorithms: ['none'] }] }, 'ERR_CONFIG_VALUE', /algorithms\[0\]/],
    [{ ...least, issuers: [{ issuer: 'https://i', audience: ['a'], jwks_file: 'no-such' }] }, 'ERR_CONFIG_FILE', /jwks_file/],
    [{ ...least, policy: { bundles: './no-such-folder' } }, 'ERR_CONFIG_FILE', /policy\.bundles: .*does not exist/],
    [{ ...least, revocation: { tick: '5s' } }, 'ERR_CONFIG_VALUE', /revocation\.tick/],
    [{ ...least, database: { url: 'mysql://x:secret@y/z' } }, 'ERR_CONFIG_VALUE', /database\.url: expected .*found another text/],
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

t.test('peppers: a file of their own, for nobody else to read', async (t) => {
  const file = join(t.testdir({ pepper: `${'a'.repeat(32)}\n${'b'.repeat(40)}\n` }), 'pepper')
  chmodSync(file, 0o600)
  const written = { ...least, revocation: { pepper_file: file } }
  t.equal(read(written).revocation.pepper_file, file)
  t.same(readPeppers(file).map(String), ['a'.repeat(32), 'b'.repeat(40)])
  for (const [text, mode, message] of [
    ['a'.repeat(32), 0o640, /can be read by others: chmod 600/],
    ['', 0o600, /has 0 lines/],
    [`${'a'.repeat(32)}\nshort`, 0o600, /short secret/],
    [`${'a'.repeat(32)}\n`.repeat(5), 0o600, /has 5 lines/],
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

t.test('a file that is not there, and the one that is shipped', async (t) => {
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
})

/** Editors need not ask for what has a default. */
function withoutRequired(schema: unknown): object {
  return JSON.parse(
    JSON.stringify(schema, (key, value) => (key === 'required' ? undefined : value)),
  )
}
