/**
 * Policy kinds: the ten kinds of policies that people run, by what they decide on (attributes, roles, hours, networks,
 * bodies, ...), one policy of each in test/policy/kinds. Each has its data and a generator of requests that come near its
 * edges; at least one in fourteen is allowed and one in three denied, so that 200 of any seed hold both.
 */
import { createHash, createHmac } from 'node:crypto'
import { type Case, type Chance, type Comparison, comparePolicy } from './compared.ts'

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

export function compareKind(name: string, seed: number, count: number): Promise<Comparison> {
  const files = [`test/policy/kinds/${name}.rego`]
  return comparePolicy({ files, entrypoint: `kinds/${name}/allow`, ...kinds[name]! }, seed, count)
}
