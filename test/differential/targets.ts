/** Targets that try to reach what the policy denies: places of the tree, spelt as no two servers agree. */
const places = ['public', 'secret', 'private', 'a', 'x', 'a.txt', 'index.html']

const separators = [
  '/',
  '/',
  '/',
  '/',
  '/',
  '//',
  '/./',
  '%2f',
  '%2F',
  '%5c',
  '\\',
  '/.;/',
  '/;/',
  '%252f',
  '/%2e/',
  '/a/../',
  '%c0%af',
  '%ef%bc%8f',
  '/\t/',
  '%00/',
  '|',
  '/[/',
]

const ups = [
  '..',
  '..',
  '.',
  '%2e%2e',
  '.%2e',
  '%2E.',
  '..;',
  '..;x=1',
  '.;',
  '%252e%252e',
  '%c0%ae%c0%ae',
  '..%00',
  '..%20',
  '...',
  '.%00.',
  '%u002e%u002e',
  '..%5c',
  '..\\',
  '%2e%2e%2f',
  '..%2f',
  '..%09',
  '..|',
  '[..]',
  '^..',
]

const endings = [
  '',
  '',
  '',
  '/',
  '?',
  '?/../secret',
  '#',
  '%23',
  '%3f',
  ';',
  ';x',
  '.',
  '%20',
  '%00',
  '%00.txt',
  '~',
  '::$DATA',
  '%0a',
  '+',
  '/.',
  '%2e',
  '/..',
  ';/../secret',
  '#/../..',
  '|',
  '[id]',
  '?%',
  '?a=%zz/../secret',
  '//',
]

/** Known to reach a denied place on one server or another, where no reader looks at the target as a whole. */
export const classics: readonly string[] = [
  '/%73ecret/x', '/public/../secret/x', '/public/%2e%2e/secret/x', '/public/..%2fsecret/x', '/public/a/..\\..\\..\\secret\\x', '//secret/x', '/./secret/x',
  '/secret;x/x', '/secret%3Bx/x', '/public/..;/secret/x', '/public/%252e%252e/secret/x', '/public/%c0%ae%c0%ae/secret/x', '/secret%00/x',
] // biome-ignore format: a table

/** Half of them are tame, so that enough are allowed for the servers to have their say. */
export function targetOf(random: () => number): string {
  const tame = random() < 0.5
  const pick = (from: readonly string[]): string => from[Math.floor(random() * from.length)]!
  const first = ['//', '/./', '/%2e/', '/;/', 'http://HOST/', '/..;/', '/\\']
  let target = tame || random() < 0.8 ? '/' : pick(first)
  const count = 1 + Math.floor(random() * 4)
  for (let i = 0; i < count; i++) {
    if (i > 0) target += tame ? '/' : pick(separators)
    const place = !tame && random() < 0.3 ? pick(ups) : pick(places)
    target += random() < 0.15 ? odd(place, random) : place
    if (tame && random() < 0.2)
      target += pick([';x', ';x=1', '%20', '.', '%3B', '%3b..', '~', '%C2%A0', '%EF%BC%8F'])
  }
  return target + (random() < 0.4 ? pick(endings) : '')
}

/** The same word in another spelling. */
function odd(word: string, random: () => number): string {
  const at = Math.floor(random() * word.length)
  const hex = word.charCodeAt(at).toString(16)
  const spelt = [
    `%${hex}`,
    `%${hex.toUpperCase()}`,
    `%25${hex}`,
    `%c1%${((word.charCodeAt(at) & 0x3f) | 0x80).toString(16)}`,
  ]
  return word.slice(0, at) + spelt[Math.floor(random() * spelt.length)]! + word.slice(at + 1)
}
