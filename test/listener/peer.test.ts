/** Who the client is behind proxies: trust by network, hops from the right, nothing a client wrote is believed. */
import type { Socket } from 'node:net'
import fc from 'fast-check'
import t from 'tap'
import { plainAddress } from '../../src/domain/address.ts'
import { NetworkSet } from '../../src/domain/network.ts'
import { type Peer, resolvePeer, type Via } from '../../src/listener/peer.ts'
import { seedOf } from '../harness/wait.ts'

const trusted = ['10.0.0.0/8', '2001:db8::/32']
const via = (over: Partial<Via> = {}): Via => ({
  scheme: 'http',
  trusted: new NetworkSet(trusted),
  clientHeader: 'x-forwarded-for',
  certificateHeader: undefined,
  named: new WeakMap(),
  unnamed: new WeakSet(),
  certificates: new WeakMap(),
  peers: new WeakMap(),
  ...over,
})
const from = (remoteAddress: string): Socket =>
  ({ remoteAddress, remotePort: 4711, localAddress: '::ffff:192.0.2.9', localPort: 80 }) as Socket
const read = (address: string, pairs: string[], over: Partial<Via> = {}): Peer =>
  resolvePeer(from(address), pairs, via(over))
const xff = (value: string): string[] => ['x-forwarded-for', value]

t.test('no proxy is trusted by default, not even on a private network', async (t) => {
  const client = read('10.1.2.3', xff('198.51.100.1'), { trusted: undefined })
  t.match(client, { address: '10.1.2.3', port: 4711, localAddress: '192.0.2.9', scheme: 'http' })
})

t.test('a connection whose peer has left has no address and is refused', async (t) => {
  for (const trust of [undefined, new NetworkSet(trusted)])
    t.throws(() => read('', xff('198.51.100.1'), { trusted: trust }), { code: 'ERR_NOT_READY' })
})

t.test('the rightmost hop that is not trusted is the client', async (t) => {
  const cases: [peer: string, value: string, client: string][] = [
    ['203.0.113.7', '198.51.100.1', '203.0.113.7'],
    ['10.0.0.1', '198.51.100.1', '198.51.100.1'],
    ['10.0.0.1', '1.1.1.1, 198.51.100.1', '198.51.100.1'],
    ['10.0.0.1', '1.1.1.1, 198.51.100.1, 10.9.9.9', '198.51.100.1'],
    ['10.0.0.1', '10.3.3.3, 10.2.2.2', '10.3.3.3'],
    ['::ffff:10.0.0.1', '198.51.100.1', '198.51.100.1'],
    ['2001:db8::1', '2001:DB9:0:0::1', '2001:db9::1'],
    ['10.0.0.1', '::ffff:198.51.100.1', '198.51.100.1'],
    ['10.0.0.1', '::ffff:c633:6401', '198.51.100.1'],
    ['10.0.0.1', '198.51.100.1:5555', '198.51.100.1'],
    ['10.0.0.1', '[2001:db9::1]:5555', '2001:db9::1'],
  ]
  for (const [peer, value, client] of cases)
    t.equal(read(peer, xff(value)).address, client, `${peer} says ${value}`)
  const two = [...xff('1.1.1.1'), ...xff('198.51.100.1')]
  t.equal(read('10.0.0.1', two).address, '198.51.100.1', 'sent twice it is one list')
  t.equal(read('10.0.0.1', []).address, '10.0.0.1', 'a proxy that says nothing speaks for itself')
})

t.test('the scheme is taken from a trusted proxy only', async (t) => {
  const pairs = ['x-forwarded-proto', 'HTTPS']
  t.equal(read('10.0.0.1', pairs).scheme, 'https')
  t.equal(read('203.0.113.7', pairs).scheme, 'http')
  for (const bad of ['gopher', '', 'https,', 'wsss', 'https;ws', 'https ws'])
    t.throws(
      () => read('10.0.0.1', ['x-forwarded-proto', bad]),
      { code: 'ERR_HEADER_MALFORMED' },
      bad,
    )
  // Traefik writes the scheme of a WebSocket.
  for (const [written, scheme] of [
    ['wss', 'https'],
    ['WS', 'http'],
    ['gopher, wss', 'https'],
    ['https,ws', 'http'],
  ] as const) {
    t.equal(read('10.0.0.1', ['x-forwarded-proto', written]).scheme, scheme, written)
    t.equal(read('203.0.113.7', ['x-forwarded-proto', written]).scheme, 'http', 'of a stranger')
    const element = `for=6.6.6.6;proto=gopher, for=198.51.100.1;proto=${written.split(/[, ]+/).at(-1)}`
    t.equal(read('10.0.0.1', ['forwarded', element], { clientHeader: 'forwarded' }).scheme, scheme)
  }
})

t.test('what a trusted proxy should not send is refused', async (t) => {
  for (const value of [
    '',
    'unknown',
    '1.2.3',
    '1.2.3.4.5',
    'evil',
    '1.2.3.4,',
    '1.2.3.4:x',
    '[::1',
    'fe80::1%eth0/64',
  ])
    t.throws(() => read('10.0.0.1', xff(value)), { code: 'ERR_HEADER_MALFORMED' }, value)
  const many = Array.from({ length: 33 }, () => '10.0.0.2').join(',')
  t.throws(() => read('10.0.0.1', xff(many)), { code: 'ERR_HEADER_MALFORMED' })
})

t.test('`Forwarded` is read where the listener says so, and then no other header', async (t) => {
  const over = { clientHeader: 'forwarded' } as const
  const cases: [value: string, client: string, scheme: string][] = [
    ['for=198.51.100.1', '198.51.100.1', 'http'],
    ['for=198.51.100.1;proto=https;by=10.0.0.1', '198.51.100.1', 'https'],
    ['for="[2001:db9::1]:4711"', '2001:db9::1', 'http'],
    ['for=1.1.1.1, for=198.51.100.1', '198.51.100.1', 'http'],
    ['for=198.51.100.1, FOR=10.2.2.2', '198.51.100.1', 'http'],
    ['for=1.1.1.1, for=unknown', '10.0.0.1', 'http'],
    ['for=6.6.6.6;proto=https, for=198.51.100.1', '198.51.100.1', 'http'],
    ['for="a,b";for=198.51.100.1', '', ''],
    ['for=_hidden, for=10.2.2.2', '10.2.2.2', 'http'],
  ]
  for (const [value, client, scheme] of cases) {
    if (client === '') {
      t.throws(() => read('10.0.0.1', ['forwarded', value], over), { code: 'ERR_HEADER_MALFORMED' })
      continue
    }
    t.match(read('10.0.0.1', ['forwarded', value], over), { address: client, scheme }, value)
  }
  t.equal(read('10.0.0.1', xff('198.51.100.1'), over).address, '10.0.0.1')
  for (const value of ['for', 'for=', 'for="1.1.1.1', '=x', 'for=1.1.1.1 proto=https'])
    t.throws(
      () => read('10.0.0.1', ['forwarded', value], over),
      { code: 'ERR_HEADER_MALFORMED' },
      value,
    )
})

t.test('what a client writes left of its own address is not read, whatever it is', async (t) => {
  const seed = seedOf()
  t.comment(`SEED=${seed}`)
  const over = { clientHeader: 'forwarded' } as const
  const piece = fc.constantFrom(
    ...'",;= \t',
    'for',
    'proto',
    'https',
    'unknown',
    '_h',
    '10.0.0.1',
    '6.6.6.6',
    '[::1]',
    '%',
    '\\',
  )
  const garbage = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc.array(piece, { maxLength: 12 }).map((parts) => parts.join('')),
  )
  const property = fc.property(fc.array(garbage, { maxLength: 40 }), fc.ipV4(), fc.boolean(), (left, own, apart) => {
    fc.pre(!own.startsWith('10.'))
    const forged = left.join(',')
    const sent = (name: string, mine: string): string[] =>
      apart ? [name, forged, name, mine] : [name, left.length === 0 ? mine : `${forged}, ${mine}`]
    const listed = read('10.0.0.1', sent('x-forwarded-for', own))
    const twice = read('10.0.0.1', sent('x-forwarded-for', `${own}, 10.9.9.9`))
    const element = read('10.0.0.1', sent('forwarded', `for=${own};proto=https`), over)
    const quoted = read('10.0.0.1', sent('forwarded', `for="${own}", for=10.9.9.9`), over)
    const all = [listed, twice, element, quoted]
    return all.every(({ address, proxied }) => address === own && proxied) && element.scheme === 'https' && quoted.scheme === 'http'
  }) // biome-ignore format: short
  fc.assert(property, { seed, numRuns: 1000 })
})

t.test('what a trusted hop wrote must be an address, and ends where the chain is too long', async (t) => {
  const over = { clientHeader: 'forwarded' } as const
  for (const bad of ['evil', '', '"', 'unknown']) {
    t.throws(() => read('10.0.0.1', xff(`1.1.1.1, ${bad}, 10.9.9.9`)), { code: 'ERR_HEADER_MALFORMED' }, bad)
    if (bad !== 'unknown')
      t.throws(() => read('10.0.0.1', ['forwarded', `for=1.1.1.1, for=${bad}, for=10.9.9.9`], over), { code: 'ERR_HEADER_MALFORMED' }, bad)
  }
  t.throws(() => read('10.0.0.1', ['forwarded', 'for=1.1.1.1;for=2.2.2.2'], over), { code: 'ERR_HEADER_MALFORMED' })
  const trustedHops = Array.from({ length: 33 }, () => 'for=10.0.0.2').join(', ')
  t.throws(() => read('10.0.0.1', ['forwarded', trustedHops], over), { code: 'ERR_HEADER_MALFORMED' })
  t.equal(read('203.0.113.7', xff('evil')).address, '203.0.113.7', 'a stranger may write what it likes')
}) // biome-ignore format: short

t.test('a text that is no network is refused; a mapped address is its IPv4 address', async (t) => {
  for (const bad of [
    '',
    '10.0.0.0/33',
    '10.0.0.0/08',
    '::/129',
    '::ffff:0.0.0.0/95',
    'a.b.c.d/8',
    '10.0.0/8',
    '10.0.0.0/-1',
  ])
    t.throws(() => new NetworkSet([bad]), TypeError, bad)
  t.ok(new NetworkSet(['::ffff:10.0.0.0/104']).has('10.255.0.1'))
  t.notOk(new NetworkSet(['::/0']).has('10.0.0.1'), 'all of IPv6 is not IPv4')
  t.notOk(new NetworkSet(['0.0.0.0/0']).has('2001:db8::1'))
  t.equal(plainAddress('0:0:0:0:0:FFFF:1.2.3.4'), '1.2.3.4')
  t.equal(plainAddress('FE80::1%eth0'), 'fe80::1')
  t.equal(plainAddress('01.2.3.4'), undefined)
})
