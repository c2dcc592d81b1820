/** The certificates of test/harness/certificates: all of one authority, but `stranger`. */
import { createHash, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'

/** The path of one of the files. */
export const fileOf = (name: string): string =>
  new URL(`./certificates/${name}`, import.meta.url).pathname

export const pemOf = (name: string): string => readFileSync(fileOf(name), 'utf8')

export const pair = (name: string) => ({ cert: pemOf(`${name}.pem`), key: pemOf(`${name}.key`) })

/** SHA-256 of the certificate, base64url (RFC 8705 section 3.1). */
export const thumbprint = (name: string): string =>
  createHash('sha256')
    .update(new X509Certificate(pemOf(`${name}.pem`)).raw)
    .digest('base64url')
