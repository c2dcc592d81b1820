/** Where a credential is looked for, whom a header of its own is believed from, and what is never taken for no credential. */
import t from 'tap'
import { readConfig } from '../../src/config/load.ts'
import { CredentialSources, withoutCredential } from '../../src/identity/credential.ts'

const iap = 'x-goog-iap-jwt-assertion'

function sourcesOf(...from: string[]): CredentialSources {
  const { issuers } = readConfig(
    JSON.stringify({
      listen: { trusted_proxies: ['10.0.0.0/8'] },
      database: { url: 'postgres://gate@127.0.0.1/gate' },
      issuers: [{ issuer: 'https://idp.example', audience: ['api'], from }],
      routes: [{ name: 'a', upstream: 'http://127.0.0.1:1', origins: ['https://a.example'] }],
    }),
    '.',
    {},
  )
  return new CredentialSources(issuers)
}

const all = sourcesOf(
  'authorization',
  'cookie:s',
  'websocket-protocol',
  'header:X-Goog-IAP-JWT-Assertion',
)

t.test('a header of its own is a credential from a trusted proxy only', async (t) => {
  t.same(all.find([iap, 'T'], false, true), { token: 'T', source: `header:${iap}` })
  t.equal(all.find([iap, 'T'], false, false), undefined)
  t.equal(
    sourcesOf('authorization').find([iap, 'T'], false, true),
    undefined,
    'where one is written',
  )
})

t.test('a second credential is refused, in whatever pair of places', async (t) => {
  const places: [string, string][] = [
    ['authorization', 'Bearer T'],
    ['cookie', 's=T'],
    ['sec-websocket-protocol', 'bearer.T'],
    [iap, 'T'],
  ]
  for (const one of places)
    for (const two of places)
      t.throws(
        () => all.find([...one, ...two], true, true),
        { code: 'ERR_CREDENTIAL_REPEATED' },
        `${one} ${two}`,
      )
  t.match(
    all.find(['cookie', 's=T', iap, 'F'], false, false),
    { source: 'cookie:s' },
    'one of no proxy is none',
  )
})

t.test('a cookie within another one, which some servers read, is refused', async (t) => {
  const named = sourcesOf('cookie:s.id', 'cookie:t')
  for (const hidden of [
    'a=b, t=F',
    'a=b,t=F',
    'a=b t=F',
    'a=b\tt =F',
    'a, t=F',
    'a="b t=F"',
    'a=b s.id=F',
    't=T; a=b, t=F',
    '%74=F',
    't=T; %74=F',
    '+t=F',
    't[0]=F',
    't%00x=F',
    's_id=F',
    's%2eid=F',
    's+id=F',
    's%5fid=F',
    // Spaces of Unicode, in UTF-8 and before or after the name.
    '\xc2\xa0t=F',
    't=T; \xe3\x80\x80t=F',
    't\xe2\x80\xa8=F',
    '\xc2\x85t=F',
    'a=b\xe2\x80\x83t\xc2\x85=F',
  ])
    t.throws(
      () => named.find(['cookie', hidden], false, false),
      { code: 'ERR_HEADER_MALFORMED' },
      hidden,
    )
  for (const plain of [
    'a=b, c=d',
    'a=b tt=F',
    'a=b at=F',
    'a=b t',
    'a=b saids=F',
    'a=b s-id=F',
    '%54=F',
    'T=F',
    't%=F',
    '%2574=F',
  ])
    t.equal(named.find(['cookie', plain], false, false), undefined, plain)
  t.match(named.find(['cookie', 'a=b;t=T;  c=d'], false, false), { token: 'T' })
  const own = named.find(['cookie', 't=T, t=F'], false, false)
  t.match(own, { token: 'T, t=F' }, 'one token, and a malformed one')
  t.equal(sourcesOf('authorization').find(['cookie', 'a=b, t=F'], false, false), undefined)
})

t.test('on an optional route, what the gate has not read is no anonymous request', async (t) => {
  const cases: [pairs: string[], cause: string | undefined][] = [
    [['accept', '*/*'], undefined],
    [['authorization', 'Basic YTpi'], 'its Authorization has the scheme "Basic"'],
    [['authorization', 'Bearer'], 'its Authorization names no scheme'],
    [['authorization', ''], 'its Authorization names no scheme'],
    [['authorization', 'eyJsecret'], 'its Authorization names no scheme'],
    [['authorization', 'AWS4-HMAC-SHA256 Credential=x'], 'its Authorization names no scheme'],
    [
      ['sec-websocket-protocol', 'chat, bearer.T'],
      'it has a token as subprotocol, and is no WebSocket handshake',
    ],
    [['sec-websocket-protocol', 'chat'], undefined],
    [['cookie', 'other=T'], undefined],
    [[iap, 'T'], undefined],
  ]
  for (const [pairs, cause] of cases) {
    t.equal(all.find(pairs, false, false), undefined, `${pairs}`)
    const refusal = all.refusal(pairs, 'optional', false)
    if (cause === undefined) t.equal(refusal, undefined, `${pairs}`)
    else t.match(refusal, { code: 'ERR_CREDENTIAL_MISSING', cause: new RegExp(cause) }, `${pairs}`)
    t.notMatch(String(refusal?.cause), /secret/)
    t.match(all.refusal(pairs, 'required', false), { code: 'ERR_CREDENTIAL_MISSING' }, `${pairs}`)
  }
  t.match(all.refusal([iap, 'T'], 'required', false), { cause: /read from trusted proxies only/ })
})

t.test('a token header that nobody has verified reaches neither policy nor upstream', async (t) => {
  const strip = { authorization: 'strip', identity: 'none', host: 'keep' } as const
  const keep = { ...strip, authorization: 'keep' } as const
  for (const auth of ['required', 'optional', 'none'] as const)
    for (const forward of [strip, keep]) {
      const held = all.withheld({ auth, forward }, false)
      for (const name of [iap, 'x-goog-authenticated-user-email', 'x-ms-client-principal'])
        t.ok(held.includes(name), `${name}, of no proxy`)
      t.same(sourcesOf('authorization').withheld({ auth, forward }, false), [], 'where none comes')
    }
  t.same(all.withheld({ auth: 'none', forward: strip }, true), [iap])
  for (const auth of ['required', 'optional'] as const)
    t.same(all.withheld({ auth, forward: strip }, true), [], 'where it has been')
  t.same(withoutCredential(['a', 'b', iap, 'T'], { token: 'T', source: `header:${iap}` }), [
    'a',
    'b',
  ])
})

t.test('an Authorization that no issuer takes tokens from belongs to the app', async (t) => {
  const cookie = sourcesOf('cookie:s')
  for (const value of ['Bearer T', 'Basic YTpi', 'bearer\tT', 'Token T']) {
    t.match(
      cookie.find(['authorization', value, 'cookie', 's=C'], false, false),
      { token: 'C', source: 'cookie:s' },
      value,
    )
    t.equal(cookie.find(['authorization', value], false, false), undefined, value)
    t.equal(cookie.refusal(['authorization', value], 'optional', false), undefined, value)
    t.match(
      cookie.refusal(['authorization', value], 'required', false),
      { cause: /names it for no issuer/ },
      value,
    )
  }
})

t.test('where one does, all that reads as Bearer counts as a second credential', async (t) => {
  const cookie = ['cookie', 's=C']
  for (const value of ['Bearer T', 'bearer T', 'Bearer', 'BEARER\tT', 'Bearer,T', 'Bearer=T', 'bearer"T', 'DPoP T', 'dpop', 'DPOP\tT'])
    for (const pairs of [[...cookie, 'authorization', value], ['authorization', value, ...cookie]])
      t.throws(() => all.find(pairs, false, false), { code: 'ERR_CREDENTIAL_REPEATED' }, value)
  for (const value of ['Basic YTpi', 'Digest a="b"', 'Bearerx T', 'DPoPx T', 'Token T', ''])
    t.match(all.find([...cookie, 'authorization', value], false, false), { token: 'C' }, value)
}) // biome-ignore format: a table

t.test('a route that reads none still knows a token of the gate from one of the app', async (t) => {
  const token = (payload: unknown): string =>
    `e30.${Buffer.from(JSON.stringify(payload)).toString('base64url')}.x`
  const own = token({ iss: 'https://idp.example' })
  const cases: [sources: CredentialSources, value: string, own: boolean][] = [
    [all, `Bearer ${own}`, true],
    [all, `bEARER   ${own}`, true],
    [all, `DPoP ${own}`, true],
    [all, `Basic ${own}`, false],
    [all, `Bearer ${token({ iss: 'https://app.example' })}`, false],
    [all, `Bearer ${token(null)}`, false],
    [all, `Bearer ${token(['https://idp.example'])}`, false],
    [all, 'Bearer ghp_0123', false],
    [all, 'Bearer ..', false],
    [all, 'Bearer', false],
    [sourcesOf('cookie:s'), `Bearer ${own}`, false],
  ] // biome-ignore format: a table
  for (const [sources, value, expected] of cases)
    t.equal(sources.unasked(['a', 'b', 'authorization', value]) !== undefined, expected, value)
  t.equal(all.unasked(['a', 'b']), undefined)
})
