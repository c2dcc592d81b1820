import { generateKeyPairSync, generatePrimeSync, sign, verify } from 'node:crypto'
import t from 'tap'
import { weaknessOf } from '../../src/identity/weak-keys.ts'

const prime = (bits: number, options: object = {}): bigint =>
  generatePrimeSync(bits, { bigint: true, ...options })

t.test('ordinary keys have none of the weaknesses', async (t) => {
  for (let i = 0; i < 3; i++) {
    const { publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
    const { n } = publicKey.export({ format: 'jwk' })
    t.equal(weaknessOf(BigInt(`0x${Buffer.from(n!, 'base64url').toString('hex')}`)), undefined)
  }
})

t.test('a modulus with a small factor, or with factors close to each other', async (t) => {
  for (const small of [2n, 3n, 101n, 997n])
    t.match(weaknessOf(small * prime(1024)), /small factor/, `${small}`)
  const first = prime(1024)
  const next = prime(1024, { add: 2n, rem: 1n })
  t.equal(weaknessOf(first * next), undefined, 'two that have nothing to do with each other')
  for (const distance of [0n, 2n, 2n ** 500n]) {
    // Not a prime in general: the method finds factors, whatever they are.
    const near = first + distance
    if ([3n, 5n, 7n, 11n, 13n].some((small) => near % small === 0n)) continue
    t.match(weaknessOf(first * near), /too close|small factor/, `${distance}`)
  }
})

t.test('a modulus of the faulty library', async (t) => {
  // Its primes are k * M + (65537^a mod M), where M is the product of the first primes.
  const primes = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167] // biome-ignore format: a list
  const product = primes.reduce((all, one) => all * BigInt(one), 1n)
  const power = (exponent: number): bigint => {
    let value = 1n
    for (let i = 0; i < exponent; i++) value = (value * 65537n) % product
    return value
  }
  const factor = (exponent: number, from: bigint): bigint => {
    for (let k = from; ; k++) {
      const value = k * product + power(exponent)
      if (weaknessOf(value) !== 'its modulus has a small factor') return value
    }
  }
  for (const [a, b] of [
    [1, 7],
    [123, 456],
    [1000, 3],
  ] as const) {
    const modulus = factor(a, 2n ** 800n) * factor(b, 2n ** 801n)
    t.match(weaknessOf(modulus), /ROCA/)
  }
})

t.test('the search costs no more than some signature checks', async (t) => {
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const { n } = publicKey.export({ format: 'jwk' })
  const modulus = BigInt(`0x${Buffer.from(n!, 'base64url').toString('hex')}`)
  const text = Buffer.from('text')
  const signature = sign('sha256', text, privateKey)
  const costOf = (work: () => unknown): number => {
    const rounds = Array.from({ length: 15 }, () => {
      const before = performance.now()
      for (let i = 0; i < 20; i++) work()
      return (performance.now() - before) * 1000
    })
    // Of the round in which nothing else ran: CPU time is counted in steps that are longer than a round.
    return Math.min(...rounds)
  }
  const check = costOf(() => verify('sha256', text, publicKey, signature))
  const search = costOf(() => weaknessOf(modulus))
  // It is done on the thread that delivers revocations, for every key of every set that is fetched. It cost 50.
  t.ok(search < 20 * check, `${search} and ${check} µs`)
})
