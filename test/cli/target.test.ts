/** What the options of `revoke` become: columns, hashes, refusals. */
import t from 'tap'
import { parseRevocationTarget, type TargetOptions } from '../../src/cli/target.ts'
import { pepperId, tokenHash } from '../../src/domain/token-hash.ts'

const pepper = Buffer.from('p'.repeat(40))
const peppers = [pepper, Buffer.from('q'.repeat(40))]

const read = (options: TargetOptions, input = '') =>
  parseRevocationTarget(options, peppers, () => Promise.resolve(input))

const exp = Math.floor(Date.now() / 1000) + 600
const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')

t.test('a JWT is hashed without its signature, and the row ends after it', async (t) => {
  const token = `${part({ alg: 'ES256' })}.${part({ exp })}.c2ln`
  const row = await read({ token: '-' }, ` ${token}\n`)
  t.same(row.token_hash, tokenHash(pepper, `${token.slice(0, -4)}other`))
  t.equal(row.token_id, undefined)
  t.equal(row.expires_at, new Date((exp + 3600) * 1000).toISOString())
  t.notSame(row.token_hash, tokenHash(Buffer.from('q'.repeat(40)), token))
  t.equal((await read({ token: '-', expires: 'x' }, token)).expires_at, 'x')
  for (const odd of ['1e400', '-1e15', '"x"', 'null']) {
    const strange = `e30.${Buffer.from(`{"exp":${odd}}`).toString('base64url')}.c2ln`
    t.equal((await read({ token: '-' }, strange)).expires_at, undefined, odd)
  }
})

t.test('an opaque token is hashed whole', async (t) => {
  t.same((await read({ token: '-' }, 'a.b')).token_hash, tokenHash(pepper, 'a.b'))
  t.notSame(tokenHash(pepper, 'a.b.c.d'), tokenHash(pepper, 'a.b.c.e'))
  t.match(pepperId(pepper), /^[0-9a-f]{16}$/)
})

t.test('a thumbprint is taken as tools print it', async (t) => {
  const bytes = Buffer.alloc(32, 0xa9)
  const hex = bytes.toString('hex')
  for (const text of [
    bytes.toString('base64url'),
    hex,
    hex.toUpperCase(),
    hex.replace(/..(?=.)/g, '$&:'),
  ]) {
    const row = await read({ key: text, clientCert: text, proofKey: text })
    const expected = bytes.toString('base64url')
    t.match(row, { key_thumbprint: expected, client_cert: expected, proof_key: expected })
  }
})

t.test('cutoffs, claims and exceptions become columns of the row', async (t) => {
  t.match(await read({ subject: 'a', signedInBefore: 'T' }), {
    compare: 'auth_time',
    issued_before: 'T',
  })
  t.match(await read({ subject: 'a', eventTime: 'T' }), { event_time: 'T', issued_before: 'T' })
  t.match(await read({ subject: 'a', eventTime: 'T', issuedBefore: 'U' }), { issued_before: 'U' })
  t.match(await read({ subject: 'a', exceptSession: 's' }), { except_session_id: 's' })
  t.match(await read({ claim: ['/a=b=c', '/n:=3', '/__proto__=x', '/e='] }), {
    claims: { '/a': 'b=c', '/n': 3, '/__proto__': 'x', '/e': '' },
  })
})

t.test('a target that means nothing is refused before anything is sent', async (t) => {
  for (const wrong of [
    { key: 'abc' },
    { clientCert: 'g'.repeat(64) },
    { claim: ['role=x'] },
    { claim: ['/role'] },
    { claim: ['/n:=three'] },
    { claim: ['/a=1', '/a=2'] },
    { subject: 'a', issuedBefore: 'T', signedInBefore: 'T' },
    { reason: 'nobody' },
    { exceptSession: 's' },
    { token: '-' },
    { subject: '' },
    { subject: 'a', reason: '' },
    { session: 'é'.repeat(600) },
    { network: 'foo' },
    { network: '10.0.0.1/8' },
    { network: '10.0.0.0/33' },
  ] as TargetOptions[]) {
    await t.rejects(read(wrong), { code: 'ERR_USAGE' }, JSON.stringify(wrong))
  }
  for (const [wrong, message] of [
    [{}, 'no target given'],
    [{ key: 'abc' }, '--key is not a SHA-256 thumbprint'],
    [{ claim: ['role=x'] }, '--claim role=x is not of the form /pointer=text'],
    [{ claim: ['/n:=three'] }, '--claim /n:=three is not JSON after :='],
    [{ claim: ['/a=1', '/a=2'] }, '--claim /a is given twice'],
  ] as [TargetOptions, string][]) {
    await t.rejects(read(wrong), { message, hint: /./ }, message)
  }
  await t.rejects(
    parseRevocationTarget({ token: '-' }, [], () => Promise.resolve('x')),
    {
      code: 'ERR_CONFIG_FILE',
    },
  )
})
