/** What a log may not hold is found by name and by shape, and nothing else is touched. */
import t from 'tap'
import {
  hideInAddress,
  hideTokens,
  isSecretHeader,
  isSecretParameter,
} from '../../src/domain/secrets.ts'

t.test('a parameter that carries a credential is known by its name', async (t) => {
  const secret = [
    'access_token', 'id_token_hint', 'token', 'refreshToken', 'client_secret', 'password', 'passwd', 'api_key', 'apikey', 'API-Key', 'key', 'auth', 'code', 'sid',
    'X-Amz-Signature', 'X-Amz-Credential', 'X-Goog-Signature', 'sig', 'client_assertion', 'jwt', 'session', 'ticket', 'a.key',
  ] // biome-ignore format: a list
  const open = [
    'q',
    'page',
    'keyword',
    'monkey',
    'author',
    'zip_code',
    'country_code',
    'spin',
    'side',
    'design',
    'sessions_per_day',
    '',
    '__proto__',
  ]
  for (const name of secret) t.ok(isSecretParameter(name), name)
  for (const name of open) t.notOk(isSecretParameter(name), name)
})

t.test('the values of such parameters are hidden in targets and addresses', async (t) => {
  for (const [given, shown] of [
    ['/a/b', '/a/b'],
    ['/a?', '/a?'],
    ['/a?x=1&token=t&y', '/a?x=1&token=***&y'],
    ['/a?acc%65ss_token=t%26&token=&&token', '/a?acc%65ss_token=***&token=***&&token'],
    ['https://h/a?code=1&state=2', 'https://h/a?code=***&state=2'],
    ['/a?x=?token=1', '/a?x=?token=1'],
    ['https://h/a#access_token=1&x=2', 'https://h/a#access_token=***&x=2'],
    ['https://h/a?x=1#token=1', 'https://h/a?x=1#token=***'],
    ['http://bob:pa55@h/a?x=a@b', 'http://***@h/a?x=a@b'],
    ['http://h/a@b', 'http://h/a@b'],
  ] as const)
    t.equal(hideInAddress(given), shown)
  t.ok(isSecretHeader('referer', 'https://h/a?code=1'))
  t.notOk(isSecretHeader('referer', 'https://h/a?x=1'))
  for (const name of ['x-jwt', 'x-assertion', 'x-amzn-oidc-accesstoken', 'cf-access-jwt-assertion'])
    t.ok(isSecretHeader(name, 'x'), name)
})

t.test('what is shaped like a token is hidden wherever it stands', async (t) => {
  const jws = `${Buffer.from('{"alg":"RS256"}').toString('base64url')}.e30.c2ln-_`
  for (const [given, shown] of [
    ['', ''],
    [jws, '***'],
    [`{"a":"Bearer ${jws}","b":"Bearer%20${jws}"}`, '{"a":"Bearer ***","b":"Bearer%20***"}'],
    [`v1.${jws} ${jws}.iv.tag ${jws.replace('e30', '')}`, 'v1.*** *** ***'],
    ['eyJ eyJa.b survey.eyJ', 'eyJ eyJa.b survey.eyJ'],
    [`eyJa eyJ.${jws}`, 'eyJa ***'],
    [jws.replaceAll('.', '%2E'), '***'],
    ['newone.example.com ewo.ewo.ewo', 'newone.example.com ewo.ewo.ewo'],
    ...['{ "', '{\n"', '{\r\n"', '{\t"'].map(
      (start) =>
        [`${Buffer.from(`${start}alg":"RS256"}`).toString('base64url')}.e30.x`, '***'] as const,
    ),
  ] as const)
    t.equal(hideTokens(given), shown)
})

t.test('JSON stays JSON, whatever stands before what looks like a token', async (t) => {
  for (let code = 0; code < 0x10000; code++) {
    const before = code & 1 ? '' : '\\u00'
    const text = JSON.stringify({
      a: `${before}${String.fromCharCode(code)}yJa.b.c`,
      b: `\\${String.fromCharCode(code)}eyJa.b.c`,
    })
    try {
      JSON.parse(hideTokens(text))
    } catch {
      t.fail(text)
    }
  }
})

t.test('hostile text is read in time that grows with its length', async (t) => {
  const began = process.cpuUsage()
  for (const piece of ['ewo.', 'ewoewo', 'eyJ%2e', 'eyJ-', 'eyJ.', '-eyJa.b', 'eyJa. ', 'eyJ'])
    hideTokens(piece.repeat(200_000))
  hideInAddress(`/?${'token=&'.repeat(100_000)}`)
  t.ok(process.cpuUsage(began).user < 3_000_000)
})
