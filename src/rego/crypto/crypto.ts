/**
 * `crypto.*`: digests and MACs of the bytes of a text. Keys and certificates are in other files.
 */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import type { Builtin, BuiltinTable } from '../builtin.ts'
import { bytesOf } from '../values/bytes.ts'
import { type Args, text } from '../values/operand.ts'

function digest(algorithm: string): Builtin {
  return {
    call: (args) =>
      createHash(algorithm)
        .update(bytesOf(text(args, 0)))
        .digest('hex'),
  }
}

function hmac(algorithm: string): Builtin {
  return {
    call: (args) => {
      const [message, key] = [bytesOf(text(args, 0)), bytesOf(text(args, 1))]
      return createHmac(algorithm, key).update(message).digest('hex')
    },
  }
}

function equal(args: Args): boolean {
  const [a, b] = [bytesOf(text(args, 0)), bytesOf(text(args, 1))]
  return a.length === b.length && timingSafeEqual(a, b)
}

export const cryptoBuiltins: BuiltinTable = {
  'crypto.md5': digest('md5'),
  'crypto.sha1': digest('sha1'),
  'crypto.sha256': digest('sha256'),
  'crypto.hmac.md5': hmac('md5'),
  'crypto.hmac.sha1': hmac('sha1'),
  'crypto.hmac.sha256': hmac('sha256'),
  'crypto.hmac.sha512': hmac('sha512'),
  'crypto.hmac.equal': { call: equal },
}
