/** Key sets over real sockets: discovery, rotation, an issuer in trouble, documents that are not what they should be. */
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { exportJWK, generateKeyPair, type JWK } from 'jose'
import t from 'tap'
import { admitKeys } from '../../src/identity/admit.ts'
import { fetchDocument } from '../../src/outbound/fetch.ts'
import { TestIssuer } from '../harness/issuer.ts'
import { newFolder, openKeyStore, openSite } from '../harness/key-store.ts'
import { pause, until } from '../harness/wait.ts'

async function idp(): Promise<TestIssuer> {
  const issuer = new TestIssuer()
  await issuer.open()
  t.teardown(() => issuer.close())
  return issuer
}

t.test('keys come by discovery, from an address or from a file', async (t) => {
  const issuer = await idp()
  const found = await openKeyStore({ issuer: issuer.url })
  t.equal(found.sets.at(-1)?.keys[0]?.kid, 'one')
  t.match(found.store.status()[0], { keys: 1, version: 1, code: null })
  const named = await openKeyStore({
    issuer: 'https://elsewhere.example',
    jwks_uri: `${issuer.url}/jwks`,
  })
  t.equal(named.sets.at(-1)?.keys[0]?.kid, 'one')
  const file = join(newFolder(), 'keys.json')
  writeFileSync(file, JSON.stringify({ keys: issuer.keys }))
  const read = await openKeyStore({
    issuer: 'https://elsewhere.example',
    jwks_file: file,
    keys_refresh: '20ms',
  })
  t.equal(read.sets.length, 1)
  await issuer.rotate('two')
  writeFileSync(file, JSON.stringify({ keys: issuer.keys }))
  await until('the file is read again', () => read.sets.at(-1)?.keys[0]?.kid === 'two')
})

t.test('an unknown key is looked for once in a cooldown, for however many tokens', async (t) => {
  const issuer = await idp()
  const { store, sets } = await openKeyStore({ issuer: issuer.url, keys_cooldown: '2s' })
  const { fetches } = issuer
  const { version } = sets.at(-1)!
  for (let i = 0; i < 50; i++) store.want(issuer.url, version)
  await pause(100)
  t.equal(issuer.fetches, fetches, 'just fetched: not again yet')
  await issuer.rotate('two')
  await until('the new key', () => sets.at(-1)?.keys[0]?.kid === 'two')
  t.equal(issuer.fetches, fetches + 1)
  // A worker that has not got the new set yet.
  store.want(issuer.url, version)
  store.want('https://unknown.example', version)
  await pause(2200)
  t.equal(issuer.fetches, fetches + 1, 'a set that is on its way is not fetched again')
})

t.test('keys are still fetched after the clock has been put back', async (t) => {
  const issuer = await idp()
  const { store } = await openKeyStore({
    issuer: issuer.url,
    keys_refresh: '300ms',
    keys_cooldown: '100ms',
  })
  const now = Date.now
  t.teardown(() => {
    Date.now = now
  })
  // A fault that cannot be had for real: every program of this machine has the same clock.
  Date.now = () => now() - 3_600_000
  store.want(issuer.url, store.status()[0]!.version)
  const { fetches } = issuer
  await until('they are fetched again, and again', () => issuer.fetches >= fetches + 2)
  Date.now = now
})

t.test('while an issuer is away its last good set serves, up to `keys_max_stale`', async (t) => {
  const issuer = await idp()
  const { store, sets, logged } = await openKeyStore({
    issuer: issuer.url,
    keys_refresh: '30ms',
    keys_cooldown: '30ms',
    keys_max_stale: '2s',
  })
  issuer.down = true
  await until('a failure', () => store.status()[0]!.code === 'ERR_OUTBOUND')
  t.equal(store.status()[0]!.keys, 1, 'still there')
  await until('given up', () => store.status()[0]!.keys === 0)
  t.same(sets.at(-1)?.keys, [])
  issuer.down = false
  await until('back', () => store.status()[0]!.keys === 1)
  t.match(store.status()[0], { code: null, message: null })
  const [first, ...others] = logged.map((line) => /^issuer keys (?:loaded|could not be \w+)/.exec(line)?.[0]) // biome-ignore format: a line
  t.equal(first, 'issuer keys loaded')
  t.same([...new Set(others)], ['issuer keys could not be refreshed', 'issuer keys could not be loaded', 'issuer keys loaded']) // biome-ignore format: a line
})

t.test('trouble with keys is logged once, and its end too', async (t) => {
  const issuer = await idp()
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-keys-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'keys.json')
  const good = JSON.stringify({ keys: issuer.keys })
  writeFileSync(file, good)
  const { logged } = await openKeyStore({
    issuer: 'https://a.example',
    jwks_file: file,
    keys_refresh: '10ms',
  })
  /** As a whole: half a file is another fault, and another line. */
  const put = (text: string): void => {
    writeFileSync(`${file}.new`, text)
    renameSync(`${file}.new`, file)
  }
  const lines: RegExp[] = [/^issuer keys loaded$/]
  const then = async (change: () => void, line: RegExp): Promise<void> => {
    change()
    lines.push(line)
    await until(String(line), () => logged.length === lines.length)
    // Read several times more.
    await pause(60)
  }
  const time = '\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z'
  const kept = `^issuer keys could not be refreshed; the keys of ${time} serve until ${time}: ${file} `
  await then(
    () => rmSync(file),
    RegExp(`${kept}cannot be read \\(ENOENT\\).*"code":"ERR_CONFIG_FILE","hint"`),
  )
  await then(() => put('{}'), RegExp(`${kept}is not a JWK set.*"code":"ERR_OUTBOUND"`))
  await then(() => put(good), /^issuer keys can be loaded again$/)
  for (const [i, line] of lines.entries()) t.match(logged[i], line)
  t.equal(logged.length, lines.length)
})

t.test('an issuer that is away at the start is tried again soon', async (t) => {
  const issuer = await idp()
  issuer.down = true
  const { store } = await openKeyStore({ issuer: issuer.url })
  t.match(store.status()[0], { keys: 0, code: 'ERR_OUTBOUND' })
  issuer.down = false
  const began = performance.now()
  await until('keys', () => {
    // Tokens come all the while: they do not put it off to the end of the cooldown.
    store.want(issuer.url, store.status()[0]!.version)
    return store.status()[0]!.keys === 1
  })
  t.ok(performance.now() - began < 15_000, 'and not after half a minute')
})

t.test('a set that cannot be used never replaces one that can', async (t) => {
  const issuer = await idp()
  let answer = JSON.stringify({ keys: issuer.keys })
  const url = await openSite((_req, res) => res.end(answer))
  const { store, sets } = await openKeyStore({
    issuer: 'https://a.example',
    jwks_uri: url,
    keys_refresh: '20ms',
  })
  for (const bad of [
    '',
    '{',
    '[]',
    '{"keys":[]}',
    '{"keys":{}}',
    JSON.stringify({ keys: [{ kty: 'oct', k: 'AA' }] }),
  ]) {
    answer = bad
    await until(`refused: ${bad}`, () => store.status()[0]!.code === 'ERR_OUTBOUND')
    t.equal(store.status()[0]!.keys, 1)
    answer = JSON.stringify({ keys: issuer.keys })
    await until('good again', () => store.status()[0]!.code === null)
  }
  t.equal(sets.length, 1, 'the same keys again are no change')
})

t.test('a redirected, compressed, large, late or failed document is not taken', async (t) => {
  const body = JSON.stringify({ keys: [] })
  const url = await openSite((req, res) => {
    if (req.url === '/redirect') res.writeHead(302, { location: '/ok' }).end()
    else if (req.url === '/gzip')
      res.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(body))
    else if (req.url === '/large') res.end('x'.repeat(2000))
    else if (req.url === '/endless') {
      const timer = setInterval(() => res.write('x'), 5)
      res.on('close', () => clearInterval(timer))
    } else if (req.url === '/silent') res.flushHeaders()
    else if (req.url === '/error') res.writeHead(500).end()
    else res.end(body)
  })
  const limits = { maxBytes: 1000, timeoutMs: 300, headers: {} }
  t.match(await fetchDocument(`${url}/ok`, { ...limits, timeoutMs: 5000 }), { kind: 'text', text: body }) // biome-ignore format: a line
  for (const path of ['redirect', 'gzip', 'large', 'endless', 'silent', 'error']) {
    await t.rejects(fetchDocument(`${url}/${path}`, limits), { code: 'ERR_OUTBOUND' }, path)
  }
  await t.rejects(fetchDocument('http://127.0.0.1:1/', limits), { code: 'ERR_OUTBOUND' })
})

t.test('discovery must speak of the very issuer, and name trusted keys', async (t) => {
  let document: object = {}
  const url = await openSite((_req, res) => res.end(JSON.stringify(document)))
  for (const [name, wrong] of [
    ['another issuer', { issuer: 'https://evil.example', jwks_uri: `${url}/jwks` }],
    ['a slash more', { issuer: `${url}/`, jwks_uri: `${url}/jwks` }],
    ['keys in clear from elsewhere', { issuer: url, jwks_uri: 'http://evil.example/jwks' }],
    ['keys from a file', { issuer: url, jwks_uri: 'file:///etc/passwd' }],
    ['no keys', { issuer: url }],
  ] as const) {
    document = wrong
    t.match(
      (await openKeyStore({ issuer: url })).store.status()[0],
      { keys: 0, code: 'ERR_OUTBOUND' },
      name,
    )
  }
})

t.test('of a set only keys that can verify a token are taken', async (t) => {
  const jwk = async (alg: string, options = {}): Promise<JWK> =>
    await exportJWK((await generateKeyPair(alg, { extractable: true, ...options })).publicKey)
  const es = { ...(await jwk('ES256')), kid: 'es', alg: 'ES256' }
  const rsa = { ...(await jwk('RS256')), kid: 'rsa' }
  const secret = await exportJWK((await generateKeyPair('ES256', { extractable: true })).privateKey)
  const weak = await crypto.subtle.generateKey(
    {
      name: 'RSASSA-PKCS1-v1_5',
      modulusLength: 1024,
      publicExponent: new Uint8Array([1, 0, 1]),
      hash: 'SHA-256',
    },
    true,
    ['sign', 'verify'],
  )
  const taken = (...keys: object[]): unknown[] => {
    try {
      return admitKeys(JSON.stringify({ keys: [...keys, { ...es, kid: 'always' }] }), [
        'ES256',
        'RS256',
      ]).keys.map(({ kid }) => kid)
    } catch (error) {
      return [(error as { code: string }).code]
    }
  }
  t.same(taken(es, rsa), ['es', 'rsa', 'always'])
  const deep = JSON.parse('['.repeat(1000) + ']'.repeat(1000))
  const left: [name: string, key: object][] = [
    ['for encryption', { ...es, use: 'enc' }],
    ['of another algorithm', { ...es, alg: 'ES384' }],
    ['for signing only', { ...es, key_ops: ['sign'] }],
    ['private', { ...secret, kid: 'x' }],
    ['symmetric', { kty: 'oct', k: 'AAAA', kid: 'x' }],
    ['too short', { ...(await crypto.subtle.exportKey('jwk', weak.publicKey)), kid: 'x' }],
    ['on no curve', { ...es, crv: 'P-1' }],
    ['off the curve', { ...es, x: 'AAAA' }],
    ['with a name that is no string', { ...es, kid: 7 }],
    ['an exponent of 1', { ...rsa, e: 'AQ' }],
    ['an exponent that makes each check long', { ...rsa, e: `AQ${'A'.repeat(9)}B` }],
    ['for an issuer that is no text', { ...es, issuer: { toString: 1 } }],
    ['for an issuer that is a deep list', { ...es, issuer: deep }],
    ['null', null as never],
  ] // biome-ignore format: a table
  for (const [name, key] of left) t.same(taken(key), ['always'], name)
  const all = [...left.map(([, key]) => key), es]
  const said = admitKeys(JSON.stringify({ keys: all }), ['ES256', 'RS256']).left
  t.equal(said.length, left.length)
  t.match(said, [
    'key "es": its use is not sig',
    'key "es": its alg is not one of issuers[].algorithms',
    /key_ops/,
    'key "x": its private part is published',
    'key "x": its kty or crv is not supported',
    /2048/,
  ])
  t.same(taken(es, { ...rsa, kid: 'es' }), ['es', 'es', 'always'], 'two types under one name')
  t.same(taken(es, es, { ...es, extra: 1 }), ['es', 'always'], 'one key three times')
  const more = await Promise.all(Array.from({ length: 5 }, () => jwk('ES256')))
  t.same(
    taken(...more.map((key) => ({ ...key, kid: '' }))),
    ['', '', '', '', 'always'],
    'as many under one name as a token may be tried with',
  )
  t.same(taken(...more), [undefined, undefined, undefined, undefined, 'always'], 'without names')
  t.same(
    taken(...Array.from({ length: 100 }, () => es)),
    ['ERR_OUTBOUND'],
    'more keys than anyone has',
  )
  const {
    keys: [kept],
  } = admitKeys(JSON.stringify({ keys: [{ ...es, x5c: ['AA'], extra: 1 }] }), ['ES256'])
  t.same(Object.keys(kept!).sort(), ['alg', 'crv', 'kid', 'kty', 'x', 'y'])
})

/** Keeps the keys of an issuer, which is down from then on. @returns their file */
async function keptFile(issuer: TestIssuer, folder: string, more: object = {}): Promise<string> {
  const { store } = await openKeyStore({ issuer: issuer.url, ...more }, folder)
  await store.close()
  issuer.down = true
  const [file] = readdirSync(folder)
  return join(folder, file!)
}

function change(file: string, part: object): void {
  const kept = JSON.parse(readFileSync(file, 'utf8'))
  writeFileSync(file, JSON.stringify({ ...kept, ...part }))
}

t.test('a gate that starts while the issuer is away has the keys of before', async (t) => {
  const issuer = await idp()
  const folder = newFolder()
  const file = await keptFile(issuer, folder)
  t.equal(statSync(file).mode & 0o777, 0o600)
  const { fetched_at } = JSON.parse(readFileSync(file, 'utf8'))
  const { store, sets } = await openKeyStore({ issuer: issuer.url, keys_cooldown: '100ms' }, folder)
  t.match(sets, [{ version: 1, keys: [{ kid: 'one' }] }])
  t.match(store.status()[0], { keys: 1, last_success: fetched_at })
  t.same(readdirSync(folder), [basename(file)], 'nothing else is left there')

  // It comes back with another key: a token that names it is enough.
  await issuer.rotate('two')
  issuer.down = false
  await until('the new key', () => {
    store.want(issuer.url, store.status()[0]!.version)
    return sets.at(-1)?.keys[0]?.kid === 'two'
  })
  await store.close()
  t.match(JSON.parse(readFileSync(file, 'utf8')).keys, [{ kid: 'two' }])
})

t.test('kept keys end with keys_max_stale, counted from their fetch', async (t) => {
  const issuer = await idp()
  const folder = newFolder()
  const file = await keptFile(issuer, folder)
  const old = (ms: number): string => new Date(Date.now() - ms).toISOString()
  change(file, { fetched_at: old(3_590_000) })
  t.equal((await openKeyStore({ issuer: issuer.url, keys_max_stale: '1h' }, folder)).sets.length, 1)
  // They end in time although the next refresh is a day away.
  change(file, { fetched_at: old(3_597_000) })
  const late = await openKeyStore(
    { issuer: issuer.url, keys_max_stale: '1h', keys_refresh: '24h', keys_cooldown: '24h' },
    folder,
  )
  t.equal(late.sets.length, 1)
  await until('they have ended', () => late.sets.at(-1)?.keys.length === 0)
  change(file, { fetched_at: old(3_610_000) })
  t.same((await openKeyStore({ issuer: issuer.url, keys_max_stale: '1h' }, folder)).sets, [])
})

function renameAndLink(file: string): void {
  renameSync(file, `${file}.other`)
  symlinkSync(`${file}.other`, file)
}

function makePipe(file: string): void {
  rmSync(file)
  execFileSync('mkfifo', ['-m', '600', file])
}

t.test('kept keys that may not be the issuer’s are not used', async (t) => {
  const issuer = await idp()
  const folder = newFolder()
  const file = await keptFile(issuer, folder)
  const good = readFileSync(file)
  const stranger = { ...issuer.keys[0], kid: 'private', d: 'AAAA' }
  const cases: readonly (readonly [string, () => void, object?])[] = [
    ['found at another place', () => {}, { jwks_uri: `${issuer.url}/jwks` }],
    ['of another issuer', () => change(file, { issuer: 'https://else.example' })],
    ['fetched in the future', () => change(file, { fetched_at: '2190-01-01T00:00:00Z' })],
    ['without a time', () => change(file, { fetched_at: 'yesterday' })],
    ['with no usable key', () => change(file, { keys: [stranger] })],
    ['with keys for no accepted algorithm', () => {}, { algorithms: ['RS256'] }],
    ['cut off', () => writeFileSync(file, good.subarray(0, 40))],
    ['written by another user', () => chmodSync(file, 0o666)],
    ['behind a link', () => renameAndLink(file)],
    ['in a pipe', () => makePipe(file)],
    ['too large', () => writeFileSync(file, Buffer.concat([good, Buffer.alloc(1 << 20, ' ')]))],
  ]
  for (const [name, spoil, more] of cases) {
    spoil()
    const { store, sets, logged } = await openKeyStore({ issuer: issuer.url, ...more }, folder)
    t.same(sets, [], name)
    t.match(store.status()[0], { keys: 0 }, name)
    if (spoil.toString() !== '() => {}' && !/another issuer/.test(name))
      t.match(logged[0], /kept keys in .* cannot be used: .*ERR_KEPT_KEYS/, name)
    await store.close()
    rmSync(file)
    writeFileSync(file, good, { mode: 0o600 })
  }
})

t.test('a folder that cannot be written is said once, and the keys are in use', async (t) => {
  const issuer = await idp()
  const { store, sets, logged } = await openKeyStore(
    { issuer: issuer.url, keys_refresh: '20ms' },
    '/proc/none',
  )
  const { fetches } = issuer
  await until('three more fetches', () => issuer.fetches > fetches + 2)
  await store.close()
  t.equal(sets.length, 1)
  t.equal(logged.filter((line) => line.includes('ERR_KEPT_KEYS')).length, 1)
})
