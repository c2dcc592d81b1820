/** Names of query parameters over all bytes: what a policy sees of one is what it is removed and replaced by. */
import { isUtf8 } from 'node:buffer'
import t from 'tap'
import { encodedName, formDecode, formDecodeStrict } from '../../src/domain/form.ts'
import { hideInAddress, isSecretParameter } from '../../src/domain/secrets.ts'
import { buildInput, InputPlan } from '../../src/policy/input.ts'
import { readsEverything } from '../../src/policy/input-usage.ts'
import { escapingBuiltins } from '../../src/rego/go/escaping.ts'
import { bytesOf } from '../../src/rego/values/bytes.ts'
import { parseRequestTarget, type Target, withQuery } from '../../src/route/target.ts'
import { activePolicy } from '../harness/policy.ts'

const options = { scheme: 'http', maxBytes: 1 << 20 } as const
const plan = new InputPlan(readsEverything.input)
const read = (query: string): Target => parseRequestTarget('GET', `/x?${query}`, 'h', options)

function inputOf({ wire, query }: Target, label = ''): string {
  return buildInput(
    {
      headers: ['host', 'h'], requestId: 'd', method: 'GET', path: wire, host: 'h', scheme: 'http', protocol: 'HTTP/1.1',
      size: -1, sourceAddress: '1.2.3.4', sourcePort: 5, destinationAddress: '6.7.8.9', destinationPort: 80, parsedPath: ['x'], query,
      routeJson: JSON.stringify({ name: 'r', labels: { name: label } }), labelsJson: '{}', principal: undefined, bodyWithheld: false,
    },
    { timeRfc3339: '2026-01-01T00:00:00.000Z', body: undefined, feedStale: false, feedAgeMs: 1 },
    plan,
  ).text // biome-ignore format: a table
}

const shown = (query: string): Record<string, string[]> =>
  JSON.parse(inputOf(read(query))).parsed_query

const hex = (byte: number): string => `%${byte.toString(16).padStart(2, '0')}`
const everyByte = Array.from({ length: 256 }, (_, byte) => byte)

/** Texts that are not UTF-8 once decoded, or that decoders are known to differ about. */
const odd = [
  'evil%ff', 'evil%FE', 'evil%ef%bf%bd', 'evil%e2%82', 'evil%e2%82%ac', 'evil%f0%9f%98', 'a%80b%81', '%ff%fe',
  '%c0%af', '%e0%80%af', '%f0%80%80%af', '%c1%81', '%ed%a0%80', '%ed%b0%80', '%ed%a0%80%ed%b0%80', '%f4%90%80%80',
  '%f8%88%80%80%80', '%fe', '%ef%bf%be', '%ef%bf%bf', '%ef%bb%bf', '%ef%bb%bfx', '%c3%a9', 'caf%c3%a9', 'cafe%cc%81', '+', '%20',
  '%2b', 'a+b', 'a%20b', 'a%2bb', '+%ff', '%2b%ff', '%25', '%25ff', '%25%ff', '%2525', '%3d', 'a%3db', '%26', 'a%26b', '%00',
  'a%00', 'a%00b', '__proto__', 'constructor', 'a[]', 'a%5B%5D', 'a;b', 'OK', 'ok%20', 'ok+', 'ok%00', 'o%6b%ff', '%ffok', '',
] // biome-ignore format: a list

const names = [
  ...new Set([
    ...odd,
    ...everyByte.flatMap((byte) => {
      const triplet = hex(byte)
      return [
        triplet,
        triplet.toUpperCase(),
        `a${triplet}`,
        `${triplet}b`,
        `%c3${triplet}`,
        `%e2%82${triplet}`,
        `%ed${triplet}%80`,
        `+${triplet}+%ff`,
      ]
    }),
    ...everyByte.map((byte) => String.fromCharCode(byte)).filter((char) => !/[&=]/.test(char)),
  ]),
]

function readable(name: string): boolean {
  try {
    return read(`${name}=1`).doubt === undefined
  } catch {
    return false
  }
}

t.test('a query that could be read in two ways is refused before the policy', async (t) => {
  const refused = names.filter((name) => !readable(name))
  const expected = everyByte
    .map((byte) => String.fromCharCode(byte))
    .filter((char) => !/[!-~]/.test(char) || char === '#' || char === '%')
  t.same(refused.sort(), expected.sort())
  for (const name of ['%', 'a%', '%z', '%4', '%4x', '%%41', '%u0041']) t.notOk(readable(name), name)
})

const cases = names
  .filter(readable)
  .flatMap((name) => ['=2', '', '=', '=%ff=+%e2%82'].map((rest) => name + rest))
  .filter((pair) => pair !== '')

t.test(
  'a policy that keeps `ok` alone keeps nothing else, and one that sets replaces',
  async (t) => {
    const [only, set] = await Promise.all([
      activePolicy(
        'decision := {"allowed": true, "query_parameters_to_remove": [name | some name, _ in input.parsed_query; name != "ok"]}',
      ),
      activePolicy(
        'decision := {"allowed": true, "query_parameters_to_set": {name: "new" | some name, _ in input.parsed_query; name != "ok"}}',
      ),
    ])
    for (const pair of cases) {
      const given = read(`ok=1&${pair}&o%6b=3&${pair}&ok`)
      const [seen, ...more] = Object.keys(shown(pair))
      t.same(more, [], `${pair} is one parameter`)
      const removed = only.decide('gate/authz/decision', inputOf(given))
      t.equal(removed.failure, undefined, pair)
      const kept =
        removed.query === undefined ? given : withQuery('GET', given, removed.query, options)
      const replaced = set.decide('gate/authz/decision', inputOf(given))
      const sent =
        replaced.query === undefined ? given : withQuery('GET', given, replaced.query, options)
      if (seen === 'ok') {
        t.same([kept, sent], [given, given], `${pair} is kept as it is`)
        continue
      }
      t.equal(kept.wire, '/x?ok=1&o%6b=3&ok', `${pair} is removed`)
      t.ok(sent.wire.startsWith('/x?ok=1&o%6b=3&ok&'), `what is beside ${pair} is kept as it is`)
      t.same(shown(sent.query!), { ok: ['1', '3', ''], [seen!]: ['new'] }, `${pair} is replaced`)
    }
  },
)

t.test('what a policy does not name stays byte for byte, whatever it is named', async (t) => {
  const one = await activePolicy(
    'decision := {"allowed": true, "query_parameters_to_remove": [input.route.labels.name]}',
  )
  const keyOf = new Map(cases.map((pair) => [pair, Object.keys(shown(pair))[0]!]))
  const perQuery = 200
  for (let from = 0; from < cases.length; from += perQuery) {
    const pairs = cases.slice(from, from + perQuery)
    const given = read(pairs.join('&'))
    for (const name of new Set(pairs.map((pair) => keyOf.get(pair)!))) {
      const { query } = one.decide('gate/authz/decision', inputOf(given, name))
      const left = pairs.filter((pair) => keyOf.get(pair) !== name)
      t.equal(
        withQuery('GET', given, query!, options).query ?? '',
        left.join('&'),
        `without ${JSON.stringify(name)}`,
      )
    }
  }
})

t.test('a name that a builtin made of bytes is the name as it is shown', async (t) => {
  for (const name of ['evil%ff', 'evil%e2%82', '%ed%a0%80', 'a+%fe']) {
    const raw = JSON.stringify(name)
    const policy = await activePolicy(
      `decision := {"allowed": true, "query_parameters_to_remove": [urlquery.decode(${raw})], "query_parameters_to_set": {"n": "1"}}`,
    )
    const given = read(`ok=%ff&${name}=2`)
    const { query } = policy.decide('gate/authz/decision', inputOf(given))
    t.equal(withQuery('GET', given, query!, options).wire, '/x?ok=%ff&n=1', name)
  }
})

t.test('the log hides by the same reading', async (t) => {
  for (const pair of cases) {
    const name = formDecode(encodedName(pair))
    const [seen] = Object.keys(shown(pair))
    t.equal(name, seen, pair)
    if (!pair.includes('=') || pair.includes('#')) continue
    t.equal(hideInAddress(`/x?${pair}`) !== `/x?${pair}`, isSecretParameter(name), pair)
  }
  t.equal(hideInAddress('/x?%ff+token=1&%ff+tok=1'), '/x?%ff+token=***&%ff+tok=1')
})

t.test('a form in a body, and `urlquery`, differ only in what is no text', async (t) => {
  const decode = escapingBuiltins['urlquery.decode']!.call
  for (const name of [...names.filter(readable), ...odd]) {
    const bytes = bytesOf(decode([name], undefined as never) as string)
    t.equal(bytes.toString(), formDecode(name), name)
    t.equal(formDecodeStrict(name), isUtf8(bytes) ? formDecode(name) : undefined, name)
  }
  for (const stray of ['%', 'a%', '%4', '%4x', '%zz%41', '%%41']) {
    t.throws(() => decode([stray], undefined as never))
    t.equal(formDecodeStrict(stray), undefined)
    t.equal(formDecode(stray), stray.replace(/%41$/, 'A'))
  }
})
