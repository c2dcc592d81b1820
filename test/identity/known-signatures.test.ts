import { randomBytes } from 'node:crypto'
import t from 'tap'
import { KnownSignatures } from '../../src/identity/known-signatures.ts'
import { seeded } from '../harness/wait.ts'

const key = { thumbprint: 'T'.repeat(43), algorithm: 'ES256' }
const other = { thumbprint: 'U'.repeat(43), algorithm: 'ES256' }

t.test(
  'a tag covers the secret, the key, the algorithm and every character of the token',
  async (t) => {
    const shared = KnownSignatures.create(1 << 12)
    const writer = new KnownSignatures(shared)
    const reader = new KnownSignatures(shared)
    const token = 'aaaa.bbbb.cccc'
    t.notOk(reader.has(token, key))
    writer.add(token, key)
    t.ok(reader.has(token, key))
    t.notOk(reader.has(token, other))
    t.notOk(reader.has(token, { ...key, algorithm: 'ES384' }))
    for (let i = 0; i < token.length; i++)
      t.notOk(reader.has(`${token.slice(0, i)}x${token.slice(i + 1)}`, key), `character ${i}`)
    for (const near of ['', token.slice(1), `${token}.`, `.${token}`, token.slice(0, -1)])
      t.notOk(reader.has(near, key), near)
    const secret = randomBytes(32).toString('hex')
    t.notOk(new KnownSignatures({ ...shared, secret }).has(token, key))
  },
)

t.test('a full table forgets some tokens by chance and takes every new one', async (t) => {
  const shared = KnownSignatures.create(1 << 12)
  const known = new KnownSignatures(shared)
  const room = shared.table.byteLength / 16
  const tokens = Array.from({ length: 3 * room }, (_, i) => `${i}.${i}.${i}`)
  for (const token of tokens) {
    known.add(token, key)
    t.ok(known.has(token, key))
  }
  const held = tokens.filter((token) => known.has(token, key)).length
  t.ok(held > room / 2 && held <= room, `${held} of ${room} slots`)
  // A token that is there is entered no second time: its bucket would lose another one.
  const before = Buffer.from(new Uint8Array(shared.table))
  for (const token of tokens) if (known.has(token, key)) known.add(token, key)
  t.ok(before.equals(Buffer.from(shared.table)))
  // Half full, hardly a bucket overflows.
  const half = KnownSignatures.create(1 << 16)
  const sparse = new KnownSignatures(half)
  const some = tokens.length < 2048 ? tokens : tokens.slice(0, 2048)
  for (const token of some) sparse.add(token, key)
  t.ok(some.filter((token) => sparse.has(token, key)).length > 0.95 * some.length)
})

t.test('an entry that is half written, or lies across two, is no entry', async (t) => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9)
  t.comment(`SEED=${seed}`)
  const random = seeded(seed)
  const shared = KnownSignatures.create(1 << 8)
  const words = new Uint32Array(shared.table)
  const known = new KnownSignatures(shared)
  const full = (token: string): Uint32Array => {
    words.fill(0)
    known.add(token, key)
    return words.slice()
  }
  for (let round = 0; round < 300; round++) {
    const [a, b] = [full(`a.${round}.x`), full(`b.${round}.x`)]
    // Writers store word by word, in any order as others see it: any mixture of before and after but the whole.
    for (const before of [new Uint32Array(words.length), b]) {
      words.set(before)
      const at = a.findIndex((word) => word !== 0)
      const missing = at + Math.floor(random() * 4)
      for (let i = at; i < at + 4; i++) if (i !== missing && random() < 0.8) words[i] = a[i]!
      t.notOk(known.has(`a.${round}.x`, key), `round ${round}`)
    }
    words.fill(0)
    const at = a.findIndex((word) => word !== 0)
    words.set(a.subarray(at, at + 4), (at + 2) % (words.length - 4))
    t.notOk(known.has(`a.${round}.x`, key), 'not at the place of a tag')
  }
})
