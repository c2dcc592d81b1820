import { createHmac, randomBytes } from 'node:crypto'
import t from 'tap'
import { tokenHash } from '../../src/domain/token-hash.ts'

t.test('the hash is an HMAC for every length of key and text', async (t) => {
  const texts = ['', 'a', 'é'.repeat(40), 'x'.repeat(55), 'x'.repeat(64), 'x'.repeat(5000), 'a.b']
  for (const length of [0, 1, 16, 32, 63, 64, 65, 127, 128, 1000]) {
    const pepper = randomBytes(length)
    for (const text of texts) {
      const expected = createHmac('sha256', pepper).update(text).digest('hex')
      t.equal(tokenHash(pepper, text).toString('hex'), expected, `${length} ${text.slice(0, 9)}`)
    }
  }
})

t.test('a JWT is hashed without its signature', async (t) => {
  const pepper = randomBytes(32)
  t.same(tokenHash(pepper, 'a.b.c'), tokenHash(pepper, 'a.b'))
  t.same(tokenHash(pepper, 'a.b.c'), tokenHash(pepper, 'a.b.d'))
  t.notSame(tokenHash(pepper, 'a.b.c.d'), tokenHash(pepper, 'a.b'))
})
