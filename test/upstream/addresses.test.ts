/** Which addresses a configured name may mean. */
import { networkInterfaces } from 'node:os'
import t from 'tap'
import { checkUpstreams, lookupWithin } from '../../src/upstream/addresses.ts'

const rules = {
  deny: ['0.0.0.0/8', '169.254.0.0/16', '10.66.0.0/16', 'fe80::/10'],
  adminPort: 8081,
}

type Found = { readonly code: string | undefined; readonly addresses: readonly string[] }

function look(origin: string, name: string): Promise<Found> {
  return new Promise((resolve) => {
    lookupWithin(origin, rules)(name, { all: true }, (error, found) => {
      const list = typeof found === 'string' ? [found] : found.map(({ address }) => address)
      resolve({ code: error?.code, addresses: error === null ? list : [] })
    })
  })
}

t.test('a name that resolves to a denied network, or to this machine, is refused', async (t) => {
  // A literal goes through the resolver like a name whose only record it is.
  for (const [origin, address] of [
    ['http://orders.example', '169.254.169.254'],
    ['http://orders.example', '10.66.1.2'],
    ['http://orders.example', '::ffff:10.66.1.2'],
    ['http://orders.example', '64:ff9b::10.66.1.2'],
    ['http://orders.example', '64:ff9b:1::10.66.1.2'],
    ['http://orders.example', '2002:a9fe:a9fe::1'],
    ['http://orders.example', '::169.254.169.254'],
    ['http://orders.example', '2001:0:1:2:3:4:f5bd:fefd'],
    ['http://orders.example', '2002:7f00:1::1'],
    ['http://orders.example', '127.0.0.1'],
    ['http://orders.example', '127.9.9.9'],
    ['http://orders.example', '::1'],
    ['http://localhost:8081', '127.0.0.1'],
    ['http://localhost.evil.example', '127.0.0.1'],
  ] as const)
    t.equal((await look(origin, address)).code, 'ERR_UPSTREAM_ADDRESS', `${origin} is ${address}`)
})

t.test('a name outside of the denied networks is resolved', async (t) => {
  t.same((await look('http://orders.example', '192.0.2.1')).addresses, ['192.0.2.1'])
  t.same((await look('http://orders.example', '64:ff9b::192.0.2.1')).addresses.length, 1)
  t.same((await look('http://localhost:9001', '127.0.0.1')).addresses, ['127.0.0.1'])
  t.same((await look('http://localhost:9001', '::1')).addresses, ['::1'])
  t.same((await look('http://a.localhost:9001', '127.0.0.1')).addresses, ['127.0.0.1'])
  t.equal((await look('http://orders.example', 'no-such-name.invalid')).code === undefined, false)
})

t.test('addresses that the configuration writes out are checked when it is read', async (t) => {
  const config = (upstream: string) =>
    ({
      upstream_networks: { deny: rules.deny },
      admin: { port: 8081 },
      routes: [{ upstream }],
    }) as unknown as Parameters<typeof checkUpstreams>[0]
  const own = Object.values(networkInterfaces())
    .flat()
    .find((card) => card?.family === 'IPv4' && !card.internal)?.address
  const refused = [
    'http://169.254.169.254',
    'http://127.0.0.1:8081',
    'http://[::1]:8081',
    'http://[fe80::1]:80',
    'http://[64:ff9b::169.254.169.254]',
  ]
  if (own !== undefined) refused.push(`http://${own}:8081`)
  for (const upstream of refused)
    t.throws(() => checkUpstreams(config(upstream)), { code: 'ERR_CONFIG_VALUE' }, upstream)
  for (const upstream of [
    'http://127.0.0.1:9001',
    'http://10.0.0.1:8081',
    'https://orders.example',
  ])
    t.doesNotThrow(() => checkUpstreams(config(upstream)), upstream)
})
