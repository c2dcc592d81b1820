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
    for (const forward of [strip, keep]) t.same(all.withheld({ auth, forward }, false), [iap])
  t.same(all.withheld({ auth: 'none', forward: strip }, true), [iap])
  for (const auth of ['required', 'optional'] as const)
    t.same(all.withheld({ auth, forward: strip }, true), [], 'where it has been')
  t.same(withoutCredential(['a', 'b', iap, 'T'], { token: 'T', source: `header:${iap}` }), [
    'a',
    'b',
  ])
})
