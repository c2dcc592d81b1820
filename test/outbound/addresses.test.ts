/** Where plain http may go. */
import { createServer } from 'node:http'
import { hostname } from 'node:os'
import t from 'tap'
import { firstOutside } from '../../src/outbound/addresses.ts'
import { fetchDocument } from '../../src/outbound/fetch.ts'
import { listening } from '../harness/key-store.ts'

const networks = ['10.1.0.0/16', 'fd00:1::/32']

t.test('every address of a name must be in a listed network', async (t) => {
  const cases: [name: string, addresses: string[], outside: string | undefined][] = [
    ['idp.internal', ['10.1.2.3'], undefined],
    ['idp.internal', ['10.1.2.3', 'fd00:1::5', '::ffff:10.1.2.4'], undefined],
    ['idp.internal', ['10.1.2.3', '10.2.0.1'], '10.2.0.1'],
    ['idp.internal', ['10.1.2.3', '64:ff9b::10.1.2.3'], '64:ff9b::10.1.2.3'],
    ['idp.internal', ['127.0.0.1'], '127.0.0.1'],
    ['idp.internal', ['nonsense'], 'nonsense'],
    // Of this machine without a list.
    ['localhost', ['127.0.0.1', '::1'], undefined],
    ['localhost', ['127.0.0.1', '10.2.0.1'], '10.2.0.1'],
    ['localhost.evil.example', ['127.0.0.1'], '127.0.0.1'],
  ] // biome-ignore format: a table
  for (const [name, addresses, outside] of cases)
    t.equal(firstOutside(name, addresses, networks), outside, `${name} ${addresses}`)
})

t.test('a name is looked up for the connection, and nothing is sent elsewhere', async (t) => {
  let requests = 0
  const server = createServer((_req, res) => {
    requests++
    res.end('{}')
  })
  const { port } = await listening(server, '0.0.0.0')
  const limits = { maxBytes: 1000, timeoutMs: 5000, headers: {} }
  const get = (host: string, httpNetworks: string[]) =>
    fetchDocument(`http://${host}:${port}/`, { ...limits, httpNetworks })
  // The name of this machine has an address of this machine, mostly of loopback; it is not the name `localhost`.
  const name = hostname()
  await t.rejects(get(name, ['10.250.0.0/16']), {
    code: 'ERR_OUTBOUND',
    message: /has the address/,
  })
  await t.rejects(
    get('127.0.0.2', []).then(() => get('0.0.0.0', [])),
    /has the address 0\.0\.0\.0/,
  )
  t.equal(requests, 1, '127.0.0.2 alone')
  t.match(await get(name, ['0.0.0.0/0', '::/0']), { kind: 'text', text: '{}' })
  t.match(await get('localhost', []), { kind: 'text' })
  const proxied = { ...limits, proxy: 'http://127.0.0.1:1' }
  await t.rejects(
    fetchDocument(`http://127.0.0.1:${port}/`, proxied),
    /only https is fetched through a proxy/,
  )
  t.equal(requests, 3)
})
