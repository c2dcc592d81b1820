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

function hasSmallFactor(modulus: bigint): boolean {
  for (let divisor = 2; divisor < smallest; divisor++)
    if (modulus % BigInt(divisor) === 0n) return true
  return false
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
    const root = rootOf(square)
    if (root * root === square) return true
  }
  return false
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
