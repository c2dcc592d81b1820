/** The certificate of a client as a trusted proxy passes it on: one form, one reading, and never the proxy's own. */
import { createHash, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import t from 'tap'
import { NetworkSet } from '../../src/domain/network.ts'
import {
  type CertificateForm,
  certificateHeaders,
  forwardedCertificate,
} from '../../src/listener/forwarded-certificate.ts'
import { resolvePeer, type Via } from '../../src/listener/peer.ts'

const pemOf = (name: string): string =>
  readFileSync(new URL(`../harness/certificates/${name}.pem`, import.meta.url), 'utf8')
const pem = pemOf('client')
const other = pemOf('renewed')
const { raw } = new X509Certificate(pem)
const sha256 = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest()
const thumbprint = sha256(raw).toString('base64url')
const hex = sha256(raw).toString('hex')
const otherHex = sha256(new X509Certificate(other).raw).toString('hex')
const base64 = raw.toString('base64')
const escaped = encodeURIComponent(pem)
/** AWS leaves `+`, `=` and `/` as they are. */
const aws = (text: string): string =>
  encodeURIComponent(text).replaceAll('%2B', '+').replaceAll('%3D', '=').replaceAll('%2F', '/')

/** The thumbprint, `none`, or the code of the refusal. */
function read(form: CertificateForm, ...values: string[]): string {
  const name = certificateHeaders[form]
  try {
    const pairs = values.flatMap((value) => [name, value])
    return forwardedCertificate(['host', 'a', ...pairs], { form, name }) ?? 'none'
  } catch (error) {
    return (error as { code: string }).code
  }
}

const good: [form: CertificateForm, value: string][] = [
  ['client-cert', `:${base64}:`],
  ['nginx', escaped],
  ['nginx', encodeURIComponent(pem.trimEnd())],
  ['nginx', encodeURIComponent(pem.replaceAll('\n', '\r\n'))],
  ['aws', aws(pem)],
  ['aws', escaped],
  ['aws-passthrough', aws(pem)],
  ['aws-passthrough', aws(pem + other)],
  ['xfcc', `Hash=${hex}`],
  ['xfcc', `Hash=${hex.toUpperCase()}`],
  ['xfcc', `By=spiffe://a/b;Hash=${hex};Subject="CN=a,O=\\"b\\";c";URI=spiffe://c/d;DNS=a.example;DNS=b.example`],
  ['xfcc', `Cert="${escaped}"`],
  ['xfcc', `hash=${hex};cert="${escaped}";Chain="${escaped}${encodeURIComponent(other)}"`],
  ['xfcc', `Hash=${hex};Subject=""`],
  ['xfcc', `Subject="a\\\\";Hash=${hex}`],
] // biome-ignore format: a table

t.test('each form is read, again and again', async (t) => {
  for (const time of ['first', 'again'])
    for (const [form, value] of good)
      t.equal(read(form, value), thumbprint, `${form}: ${value.slice(0, 60)} ${time}`)
  for (const form of Object.keys(certificateHeaders) as CertificateForm[]) {
    t.equal(read(form), 'none', `${form} without its header`)
    t.equal(read(form, ''), 'none', `${form} with an empty one`)
  }
  t.equal(read('xfcc', `Hash=${otherHex}`), Buffer.from(otherHex, 'hex').toString('base64url'))
})

t.test('a header that comes twice is refused, whatever is in it', async (t) => {
  for (const [form, value] of good)
    for (const pair of [[value, value], ['', value], [value, ''], [value, 'x']])
      t.equal(read(form, ...pair), 'ERR_HEADER_REPEATED', form)
}) // biome-ignore format: short

t.test('what is not exactly of its form is refused', async (t) => {
  const der = (bytes: Buffer): string => `:${bytes.toString('base64')}:`
  const block = (inner: string): string =>
    encodeURIComponent(`-----BEGIN CERTIFICATE-----\n${inner}\n-----END CERTIFICATE-----\n`)
  const bad: [form: CertificateForm, value: string, why: string][] = [
    ['client-cert', base64, 'no colons'],
    ['client-cert', `:${base64}`, 'half of them'],
    ['client-cert', `:${base64}:;a=1`, 'a parameter'],
    ['client-cert', `:${base64}:, :${base64}:`, 'two'],
    ['client-cert', `"${base64}"`, 'a text'],
    ['client-cert', '::', 'nothing'],
    ['client-cert', `:${raw.toString('base64url')}:`, 'another alphabet'],
    ['client-cert', `:${base64.replace(/=*$/, '')}=:`, 'another padding'],
    ['client-cert', `:${base64.slice(0, 40)} ${base64.slice(40)}:`, 'a space'],
    ['client-cert', der(Buffer.concat([raw, Buffer.of(0)])), 'a byte more'],
    ['client-cert', der(raw.subarray(1)), 'a byte less'],
    ['client-cert', der(Buffer.concat([raw, raw])), 'two in one'],
    ['client-cert', der(Buffer.from('hello')), 'no certificate'],
    ['client-cert', escaped, 'another form'],
    ['nginx', base64, 'no PEM'],
    ['nginx', '(null)', 'what Apache writes for none'],
    ['nginx', `${escaped}x`, 'more behind it'],
    ['nginx', `x${escaped}`, 'more before it'],
    ['nginx', escaped + encodeURIComponent(other), 'two'],
    ['nginx', `${escaped}%`, 'half an escape'],
    ['nginx', `${escaped}%ff`, 'no UTF-8'],
    ['nginx', block(base64.replace(/=*$/, '')).replace('MII', 'MIJ'), 'changed'],
    ['nginx', block(''), 'an empty block'],
    ['nginx', encodeURIComponent(encodeURIComponent(pem)), 'escaped twice'],
    ['nginx', encodeURIComponent(pem.replaceAll('CERTIFICATE', 'TRUSTED CERTIFICATE')), 'another kind of block'],
    ['nginx', encodeURIComponent(pem.replace('-----END CERTIFICATE-----', '')), 'no end'],
    ['nginx', encodeURIComponent(`-----BEGIN CERTIFICATE-----${' '.repeat(8000)}`), 'many spaces'],
    ['aws', aws(pem + other), 'a chain'],
    ['aws-passthrough', `${aws(pem)}x`, 'more behind it'],
    ['xfcc', 'Hash=', 'an empty Hash'],
    ['xfcc', `Hash=${hex.slice(2)}`, 'a short Hash'],
    ['xfcc', `Hash=${thumbprint}`, 'a Hash in base64url'],
    ['xfcc', 'By=spiffe://a/b', 'neither Hash nor Cert'],
    ['xfcc', `Hash=${otherHex};Cert="${escaped}"`, 'Hash and Cert differ'],
    ['xfcc', `Hash=${otherHex};Hash=${hex}`, 'two of Hash'],
    ['xfcc', `Hash=${hex};hash=${hex}`, 'two of Hash, in two spellings'],
    ['xfcc', `Hash=${otherHex},Hash=${hex}`, 'two elements'],
    ['xfcc', `By=spiffe://a/b,Hash=${hex}`, 'two elements, one of them with a Hash'],
    ['xfcc', `Hash=${hex},`, 'an empty element'],
    ['xfcc', `Hash=${hex};`, 'an empty pair'],
    ['xfcc', `,Hash=${hex}`, 'an empty first element'],
    ['xfcc', `Hash=${otherHex};URI=spiffe://x,Hash=${hex}`, 'an element in a name of the client'],
    ['xfcc', `Hash=${otherHex};Subject="x\\\\";Hash=${hex};A="y"`, 'a pair in a name of the client'],
    ['xfcc', `Hash=${otherHex};Subject="x",Hash=${hex};A="y"`, 'an element that leaves its quotes'],
    ['xfcc', `Hash=${hex};Subject="x`, 'an open quote'],
    ['xfcc', `Hash=${hex};Subject=x"y"`, 'a quote inside'],
    ['xfcc', `Hash="${hex}" `, 'a space behind'],
    ['xfcc', `${'A='.repeat(2000)}"`, 'many signs'],
    ['xfcc', `A="${'\\"'.repeat(2000)}`, 'many escapes'],
    ['xfcc', hex, 'a Hash alone'],
  ] // biome-ignore format: a table
  for (const time of ['first', 'again'])
    for (const [form, value, why] of bad)
      t.equal(read(form, value), 'ERR_HEADER_MALFORMED', `${form}: ${why} ${time}`)
})

t.test('only a trusted proxy is believed, and it never lends its own certificate', async (t) => {
  const certificates = new WeakMap<Socket, string>()
  const via = (over: Partial<Via> = {}): Via => ({
    scheme: 'https',
    trusted: new NetworkSet(['10.0.0.0/8']),
    clientHeader: 'x-forwarded-for',
    certificateHeader: { form: 'client-cert', name: 'client-cert' },
    named: new WeakMap(),
    certificates,
    peers: new WeakMap(),
    ...over,
  })
  const ask = (address: string, pairs: string[], over: Partial<Via> = {}): string | undefined => {
    const socket = { remoteAddress: address, remotePort: 1, localAddress: '10.0.0.9', localPort: 2 } as Socket
    certificates.set(socket, 'its own')
    return resolvePeer(socket, pairs, via(over)).certificate
  } // biome-ignore format: short
  const header = ['client-cert', `:${base64}:`]
  t.equal(ask('10.0.0.1', header), thumbprint)
  t.equal(ask('10.0.0.1', []), undefined, 'a client without a certificate has none')
  t.equal(ask('10.0.0.1', ['x-forwarded-client-cert', `Hash=${hex}`]), undefined, 'another form')
  t.equal(ask('203.0.113.7', header), 'its own', 'a client is not believed')
  t.equal(ask('203.0.113.7', ['client-cert', 'x']), 'its own', 'nor read')
  t.equal(ask('10.0.0.1', header, { certificateHeader: undefined }), 'its own')
  t.equal(ask('10.0.0.1', header, { trusted: undefined }), 'its own')
  t.throws(() => ask('10.0.0.1', ['client-cert', 'x']), { code: 'ERR_HEADER_MALFORMED' })
})
