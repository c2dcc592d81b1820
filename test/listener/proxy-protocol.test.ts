/** The PROXY protocol's two headers, whole and in pieces, and everything that is none. */
import fc from 'fast-check'
import t from 'tap'
import { parseProxyHeader } from '../../src/listener/proxy-protocol.ts'
import { seedOf } from '../harness/wait.ts'

const signature = '0d0a0d0a000d0a515549540a'
const v2 = (hex: string): Buffer => Buffer.from(signature + hex, 'hex')
const v1 = (text: string): Buffer => Buffer.from(text, 'latin1')

const good: [name: string, bytes: Buffer, address: string | undefined, port: number][] = [
  ['version 1, IPv4', v1('PROXY TCP4 198.51.100.1 192.0.2.1 4711 443\r\n'), '198.51.100.1', 4711],
  ['version 1, IPv6', v1('PROXY TCP6 2001:DB8::1 ::1 4711 443\r\n'), '2001:db8::1', 4711],
  ['version 1, unknown', v1('PROXY UNKNOWN\r\n'), undefined, 0],
  ['version 1, unknown with words', v1('PROXY UNKNOWN a b c\r\n'), undefined, 0],
  ['version 2, IPv4', v2('2111000cc6336401c00002011267 01bb'.replace(' ', '')), '198.51.100.1', 4711],
  ['version 2, IPv6', v2(`21210024${'20010db8000000000000000000000001'.repeat(2)}126701bb`), '2001:db8::1', 4711],
  ['version 2, with a TLV behind', v2('21110010c6336401c0000201126701bb04000141'), '198.51.100.1', 4711],
  ['version 2, local', v2('20000000'), undefined, 0],
  ['version 2, a Unix socket', v2(`213100d8${'00'.repeat(216)}`), undefined, 0],
] // biome-ignore format: a table

t.test('a header that comes byte by byte is incomplete until the last', async (t) => {
  for (const [name, bytes, address, port] of good) {
    for (let length = 0; length < bytes.length; length++)
      t.equal(parseProxyHeader(bytes.subarray(0, length)), 'more', `${name}: ${length}`)
    const header = parseProxyHeader(Buffer.concat([bytes, Buffer.from('GET / HTTP/1.1')]))
    t.ok(typeof header === 'object', name)
    if (typeof header !== 'object') continue
    t.equal(header.length, bytes.length, name)
    t.same([header.ends?.address, header.ends?.port ?? 0], [address, port], name)
  }
})

t.test('bytes that cannot become a header are malformed before more has come', async (t) => {
  const bad: [name: string, bytes: Buffer][] = [
    ['a request', v1('GET / HTTP/1.1\r\n')],
    ['lower case', v1('proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n')],
    ['another family', v1('PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n')],
    ['family and address differ', v1('PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n')],
    ['a port too high', v1('PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n')],
    ['a port with a zero before', v1('PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n')],
    ['no address', v1('PROXY TCP4 a b 1 2\r\n')],
    ['two spaces', v1('PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n')],
    ['a line without end', v1(`PROXY UNKNOWN ${'a'.repeat(100)}`)],
    ['version 3', v2('3111000c000000000000000000000000')],
    ['another command', v2('2211000c000000000000000000000000')],
    ['too short for its family', v2('21110004c6336401')],
    ['too long', v2('2111ffff')],
  ]
  for (const [name, bytes] of bad) t.equal(parseProxyHeader(bytes), 'malformed', name)
})

t.test('property: any bytes give an answer, never an error', async (t) => {
  const seed = seedOf()
  t.comment(`SEED=${seed}`)
  const begun = fc.constantFrom(
    '',
    'PROXY ',
    'PROXY TCP4 ',
    '\r\n\r\n\0\r\nQUIT\n',
    '\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c',
  )
  fc.assert(
    fc.property(begun, fc.uint8Array({ maxLength: 80 }), (head, rest) => {
      const header = parseProxyHeader(Buffer.concat([Buffer.from(head, 'latin1'), rest]))
      return typeof header === 'string' || header.length <= head.length + rest.length
    }),
    { seed, numRuns: 2000 },
  )
})
