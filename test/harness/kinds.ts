/**
 * Policy kinds: the ten kinds of policies that people run, by what they decide on (attributes, roles, hours, networks,
 * bodies, ...), one policy of each in test/policy/kinds. Each has its data and a generator of requests that come near its
 * edges; at least one in fourteen is allowed and one in three denied, so that 200 of any seed hold both. `compareKind`
 * has `opa eval` and the engine decide the same requests, from the text that the gate would build, and says where they
 * differ.
 */
import { createHash, createHmac } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findOpa, runOpa } from '../../src/bundle/opa.ts'
import { ActivePolicy } from '../../src/policy/engine.ts'
import { buildInput, type InputParts, InputPlan, type InputState } from '../../src/policy/input.ts'
import { readsEverything } from '../../src/policy/input-usage.ts'
import { compile } from './bundle.ts'
import { packageOf } from './policy.ts'

/** Numbers from a seed, the same everywhere (mulberry32). */
export class Chance {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** From 0 up to, not including, `below`. */
  number(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }

  of<T>(choices: readonly T[]): T {
    return choices[this.number(choices.length)]!
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.number(times) === 0
  }

  some<T>(choices: readonly T[], most: number): T[] {
    return Array.from({ length: this.number(most + 1) }, () => this.of(choices))
  }
}

/** What differs from request to request. */
interface Case {
  readonly method?: string
  readonly path?: string
  readonly headers?: readonly (readonly [name: string, value: string])[]
  readonly body?: string
  readonly address?: string
  readonly time?: string
  readonly principal?: object
  readonly labels?: object
}

interface Kind {
  readonly data: object
  readonly make: (chance: Chance) => Case
}

const methods = ['GET', 'POST', 'PUT', 'DELETE', 'HEAD']
const texts = [
  '',
  'a',
  'alice',
  'Ålice',
  'É',
  '日本',
  '😀',
  '\u0000',
  '"\\',
  'a b',
  '__proto__',
  '\ufffd',
  '-1',
  '1e3',
]
const secret = 'a secret of thirty-two bytes, yes'

function token(chance: Chance): string {
  const header = chance.once(12) ? { alg: 'none' } : { alg: 'HS256', typ: 'JWT' }
  const claims = {
    aud: chance.once(8) ? 'other' : 'api',
    role: chance.of(['guest', 'admin', 'admin', 'Admin', '', 7]),
    exp: chance.once(2)
      ? 1767225600 + 86400 * 4000
      : chance.of([1767225600, 1767225600 + 86400 * 400, 0, 1767225599.5]),
    sub: chance.of(texts),
    big: 2 ** 53,
  }
  const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
  const signed = `${encode(header)}.${encode(claims)}`
  const key = chance.once(8) ? 'another' : secret
  const signature = createHmac('sha256', key).update(signed).digest('base64url')
  return chance.once(10)
    ? chance.of(['', 'a.b.c', `${signed}.`, `${signed}.${signature}x`, '..'])
    : `${signed}.${signature}`
}

const groups = ['red', 'blue', 'red,blue', ' green ', 'Red', '1', '', 'a b,c', 'é']
const item = (chance: Chance): unknown =>
  chance.once(12)
    ? chance.of([null, 1, 'x', [], {}])
    : {
        sku: chance.of<unknown>(['a', 'b', '', 7]),
        price: chance.of<unknown>([1, 2.5, 0.1, -3, 1e15, '4', null]),
        count: chance.of<unknown>([1, 2, 3, 0, 1.5, 1e3, true]),
      }
const segments = [
  'orders',
  'orders-archive',
  'things',
  '7',
  '12',
  'reports',
  'public',
  '',
  'a.b',
  '%41',
  'x;y',
]
const path = (chance: Chance, most = 4): string => `/${chance.some(segments, most).join('/')}`
const addresses = [
  '10.0.0.1',
  '10.1.2.3',
  '192.168.0.7',
  '172.16.5.4',
  '203.0.113.9',
  '::1',
  '2001:db8::7',
  '2001:db8:1::1',
  '255.255.255.255',
]

export const kinds: Readonly<Record<string, Kind>> = {
  jwt: {
    data: { secret, roles: { GET: ['guest', 'admin'], POST: ['admin'], DELETE: ['root'] } },
    make: (chance) => ({
      method: chance.of(['GET', 'GET', 'GET', ...methods]),
      time: chance.of(['2026-01-01T00:00:00.000Z', '2026-06-01T12:00:00.123Z', '2027-12-31T23:59:59.999Z']),
      headers: chance.once(9) ? [] : [['authorization', `${chance.once(9) ? '' : 'Bearer '}${token(chance)}`]],
    }),
  },
  headers: {
    data: {},
    make: (chance) => ({
      headers: [
        ...chance.some(texts.filter((text) => !text.includes('\0')), 1).map((text) => ['x-name', text] as const),
        ...chance.some(groups, 3).map((group) => ['x-group', group] as const),
        ...chance.some(['x-internal-a', 'x-internal-b', 'x-other'], 2).map((name) => [name, '1'] as const),
      ],
    }),
  },
  body: {
    data: {},
    make: (chance) => ({
      method: chance.of(['POST', 'POST', 'POST', 'GET', 'PUT']),
      body: JSON.stringify({
        items: chance.once(10) ? chance.of([null, {}, 'x', 3]) : Array.from({ length: chance.number(4) }, () => item(chance)),
        limit: chance.of([10, 100, 1e17, 0]),
        ...(chance.once(6) ? { [chance.of(['note', 'extra', '__proto__'])]: chance.of(texts) } : {}),
      }),
    }),
  },
  globs: {
    data: {
      paths: { GET: ['/orders/*', '/things/**', '/reports/{7,12}', '/public/[a-z]*'], POST: ['/orders/?*', '/*'], PUT: ['/orders/{*,**}/7'] },
      except: ['*archive*', '/things/12*', '*;*'],
    },
    make: (chance) => ({ method: chance.of(methods), path: `${path(chance)}${chance.of(['', '', '?', '?a=/orders/7'])}` }),
  },
  networks: {
    data: {
      allowed: ['10.0.0.0/8', '192.168.0.0/24', '2001:db8::/32', '::1/128', '203.0.113.9/32'],
      blocked: ['10.1.0.0/16', '2001:db8:1::/48'],
    },
    make: (chance) => ({
      address: chance.of([...addresses, '', 'not an address', '10.0.0.1.5']),
      headers: chance.once(2) ? [] : [['x-claimed', chance.of([...addresses.map((one) => `${one}/32`), '10.0.0.0/9', '300.1.1.1/8', '10.0.0.1', ''])]],
    }),
  },
  hours: {
    data: { zone: 'Europe/Berlin', windows: [{ from: '2026-03-28T22:00:00Z', days: 1 }, { from: '2026-10-24T22:30:00+02:00', days: 2 }] },
    make: (chance) => ({
      // Around the changes of the clock, the ends of months and a leap day as well.
      time: new Date(
        Date.parse(chance.of(['2026-03-28T00:00:00Z', '2026-10-24T00:00:00Z', '2026-01-30T00:00:00Z', '2028-02-28T00:00:00Z', '2026-07-15T00:00:00Z'])) +
          chance.number(3 * 24 * 60) * 60_000 + chance.number(1000),
      ).toISOString(),
    }),
  },
  roles: {
    data: {
      roles: {
        reader: { includes: [], grants: [{ methods: ['GET', 'HEAD'], path: ['orders'] }] },
        writer: { includes: ['reader'], grants: [{ methods: ['POST', 'PUT'], path: ['orders'] }, { methods: ['PUT'], path: [] }] },
        owner: { includes: ['writer', 'owner', 'missing'], grants: [{ methods: ['DELETE'], path: ['orders', '7'] }] },
      },
    },
    make: (chance) => ({
      method: chance.of(methods),
      path: path(chance),
      ...(chance.once(8) ? {} : { principal: { claims: chance.once(8) ? {} : { roles: chance.some(['reader', 'writer', 'owner', 'missing', '', '__proto__', 'Reader'], 3) } } }),
    }),
  },
  attributes: {
    data: {
      required: { orders: { level: 3 }, things: { team: 'blue', tags: { a: true } }, reports: {} },
      owners: { 'acme/orders': 'alice', 'acme/things': 'Ålice', 'other/7': '' },
    },
    make: (chance) => ({
      method: chance.of(methods),
      path: `/t/${chance.of(['acme', 'other', 'Acme'])}/${chance.of(segments.filter((one) => one !== ''))}`,
      labels: chance.once(6) ? { locked: 'true' } : {},
      ...(chance.once(9) ? {} : {
        principal: {
          tenant: chance.of(['acme', 'other']),
          subject: chance.of(texts),
          scopes: chance.some(['admin', 'read', ''], 2),
          claims: {
            attributes: chance.of<unknown>([{ level: 3, more: 1 }, { level: 3.0 }, { level: '3' }, { team: 'blue', tags: { a: true, b: 1 } }, {}, null, [1]]),
            ...(chance.once(3) ? {} : { client: chance.of(['2.1.0', '2.0.9', '2.1.0-rc.1', '10.0.0', 'x', '']) }),
            ...(chance.once(3) ? {} : { quota: chance.of(['10', '1KiB', '2MB', '0', '-1', 'x', '1.5Gi']) }),
          },
        },
      }),
    }), // biome-ignore format: what a token holds
  },
  queries: {
    data: {},
    make: (chance) => ({
      path: `/x?${chance.some(['q=a', 'q=b+c', 'page=7', 'page=12345', 'page=-1', 'page=', 'page', 'debug=1', 'debug_sql', 'x=1', '%71=z', 'q=%C3%A9', '%c3%a9=1', 'q=%F0%9F%98%80', '&', '='], 5).join('&')}`,
      principal: { tenant: chance.of(['acme', 'a b', 'é']) },
    }),
  },
  signatures: {
    data: { secret, keys: { [createHash('sha256').update('key-1').digest('hex')]: 'alice', [createHash('sha256').update('Ü').digest('hex')]: { name: 'bob', n: 1 } } },
    make: (chance) => {
      const body = chance.of(texts)
      const signature = createHmac('sha256', chance.once(3) ? 'x' : secret).update(body).digest('hex')
      const header = chance.of([`sha256=${signature}`, `sha256=${signature.toUpperCase()}`, `sha1=${signature}`, 'sha256', '=', `sha256=${signature}=`])
      const key = chance.of(['key-1', 'Ü', 'key-2', ''])
      return { body, headers: [...(chance.once(2) ? [['x-signature', header] as const] : []), ...(chance.once(2) ? [['x-api-key', key] as const] : [])] }
    },
  },
} // biome-ignore format: tables

function partsOf(made: Case): InputParts {
  const { path = '/', headers = [], body, labels = {} } = made
  const mark = path.indexOf('?')
  const [pathOnly, query] = mark === -1 ? [path, null] : [path.slice(0, mark), path.slice(mark + 1)]
  return {
    requestId: '7', method: made.method ?? 'GET', path, host: 'h', scheme: 'http',
    protocol: 'HTTP/1.1', headers: headers.flat(), size: body === undefined ? -1 : Buffer.byteLength(body),
    bodyWithheld: false,
    sourceAddress: made.address ?? '10.0.0.1', sourcePort: 1, destinationAddress: '10.0.0.2', destinationPort: 2,
    parsedPath: pathOnly === '/' ? [] : pathOnly.slice(1).split('/'), query,
    routeJson: JSON.stringify({ name: 'r', labels }), labelsJson: JSON.stringify(labels),
    principal: made.principal === undefined ? undefined : { json: JSON.stringify(made.principal) },
  } // biome-ignore format: a table
}

function stateOf({ body, time = '2026-01-01T00:00:00.000Z' }: Case): InputState {
  const parsed = body?.startsWith('{') ? body : 'null'
  const texts = body === undefined ? undefined : { quoted: JSON.stringify(body), parsed }
  return { timeRfc3339: time, body: texts, feedStale: false, feedAgeMs: 1 }
}

export interface Difference {
  readonly input: string
  readonly opa: string
  readonly engine: string
}

export interface Comparison {
  readonly asked: number
  readonly allowed: number
  readonly differences: readonly Difference[]
}

const whole = new InputPlan(readsEverything.input)

/** @param batches of 1,000 requests at most, each one run of `opa eval`. */
export async function compareKind(name: string, seed: number, count: number): Promise<Comparison> {
  const { data, make } = kinds[name]!
  const rego = readFileSync(`test/policy/kinds/${name}.rego`, 'utf8')
  const entrypoint = `kinds/${name}/allow`
  const policy = new ActivePolicy(await packageOf(compile(rego, [entrypoint], data)), 64 << 20)
  const chance = new Chance(seed)
  const differences: Difference[] = []
  let allowed = 0
  for (let left = count; left > 0; left -= 1000) {
    const cases = Array.from({ length: Math.min(left, 1000) }, () => make(chance))
    const inputs = cases.map((each) => buildInput(partsOf(each), stateOf(each), whole).text)
    const expected = evalBatch(rego, data, name, inputs)
    for (const [i, each] of cases.entries()) {
      const answer = policy.decide(
        entrypoint,
        buildInput(partsOf(each), stateOf(each), policy.planOf(entrypoint)).text,
      )
      if (answer.allowed) allowed++
      const engine =
        answer.failure === undefined || answer.resultJson !== undefined
          ? canonical(`[${answer.resultJson ?? ''}]`)
          : `failed: ${answer.detail}`
      if (engine !== expected[i]) differences.push({ input: inputs[i]!, opa: expected[i]!, engine })
    }
  }
  return { asked: count, allowed, differences }
}

function evalBatch(rego: string, data: object, name: string, inputs: readonly string[]): string[] {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-kinds-'))
  try {
    writeFileSync(join(folder, 'policy.rego'), rego)
    const withBatch = `${JSON.stringify(data).slice(0, -1)}${Object.keys(data).length === 0 ? '' : ','}"batch":[${inputs.join(',')}]}`
    writeFileSync(join(folder, 'data.json'), withBatch)
    const query = `[answer | some asked in data.batch; answer := [decided | decided := data.kinds.${name}.allow with input as asked]]`
    const args = ['eval', '--format=json', '--data=policy.rego', '--data=data.json', query]
    const { result } = JSON.parse(runOpa(findOpa(process.cwd()), args, folder), exactly)
    return (result[0].expressions[0].value as unknown[]).map((value) => canonical(value))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** One text for equal values, whatever the order of keys; numbers that a double cannot hold by their digits. */
function canonical(value: unknown): string {
  const parsed = typeof value === 'string' ? JSON.parse(value, exactly) : value
  return JSON.stringify(parsed, (_key, inner) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}

function exactly(_key: string, value: unknown, context?: { source?: string }): unknown {
  return typeof value !== 'number' || Number.isSafeInteger(value)
    ? value
    : `number ${context?.source}`
}
