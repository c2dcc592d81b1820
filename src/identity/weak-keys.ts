/**
 * RSA keys whose private half can be computed from the public one. An issuer that publishes one of these would let others
 * sign tokens in its name.
 */

/** The primes and the generator of the test for CVE-2017-15361 (ROCA, https://crocs.fi.muni.cz/public/papers/rsa_ccs17). */
const rocaPrimes = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157]
const rocaGenerator = 65537
/** All prime factors up to here are looked for. */
const smallest = 1000
/** Steps of Fermat's method: it finds factors that differ by little at once, or practically never. */
const fermatSteps = 100

/** @returns why the key must not be used; undefined when none of these weaknesses was found */
export function weaknessOf(modulus: bigint): string | undefined {
  if (hasSmallFactor(modulus)) return 'its modulus has a small factor'
  if (isRoca(modulus)) return 'it was made by a faulty library (ROCA, CVE-2017-15361)'
  if (hasCloseFactors(modulus)) return 'the factors of its modulus are too close to each other'
  return undefined
}

/** Small primes in groups whose product a number holds exactly: the large modulus is divided once for each group. */
const smallPrimes = groupsOfPrimes()

function groupsOfPrimes(): readonly { readonly product: bigint; readonly primes: number[] }[] {
  const groups: { product: bigint; primes: number[] }[] = []
  for (let one = 2; one < smallest; one++) {
    if (groups.some(({ primes }) => primes.some((prime) => one % prime === 0))) continue
    const last = groups.at(-1)
    const product = (last?.product ?? 0n) * BigInt(one)
    if (last === undefined || product > Number.MAX_SAFE_INTEGER)
      groups.push({ product: BigInt(one), primes: [one] })
    else {
      last.product = product
      last.primes.push(one)
    }
  }
  return groups
}

function hasSmallFactor(modulus: bigint): boolean {
  return smallPrimes.some(({ product, primes }) => {
    const rest = Number(modulus % product)
    return primes.some((prime) => rest % prime === 0)
  })
}

/** True if the modulus is a power of the generator for every one of the primes; chance makes one in 2^27 keys look so. */
function isRoca(modulus: bigint): boolean {
  return rocaPrimes.every((prime) => {
    const rest = Number(modulus % BigInt(prime))
    for (let power = 1, i = 0; i < prime; i++) {
      if (power === rest) return true
      power = (power * rocaGenerator) % prime
    }
    return false
  })
}

function hasCloseFactors(modulus: bigint): boolean {
  let middle = rootOf(modulus)
  if (middle * middle < modulus) middle++
  for (let step = 0; step < fermatSteps; step++, middle++) {
    const square = middle * middle - modulus
    if (!mayBeSquare(square)) continue
    const root = rootOf(square)
    if (root * root === square) return true
  }
  return false
}

const squareModulus = 16 * 9 * 5 * 7 * 11 * 13
const squareRests = new Uint8Array(squareModulus)
for (let i = 0; i < squareModulus; i++) squareRests[(i * i) % squareModulus] = 1

/** False for 98 of 100 numbers that are none. To compute the roots of all costs as much as 50 signature checks. */
function mayBeSquare(value: bigint): boolean {
  return squareRests[Number(value % BigInt(squareModulus))] === 1
}

/** The largest whole number whose square is at most this one. */
function rootOf(value: bigint): bigint {
  if (value < 2n) return value
  let guess = 1n << BigInt((value.toString(16).length * 4) / 2 + 1)
  for (;;) {
    const next = (guess + value / guess) >> 1n
    if (next >= guess) return guess
    guess = next
  }
}
