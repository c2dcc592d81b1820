/**
 * Which `Host` the admin port answers: a web page whose name its owner points at this address (DNS rebinding) must not
 * read the open paths through the browser of an operator. One rule for every path, with or without the token: an address,
 * or a name that no stranger can have, or one that the configuration lists.
 */
import { isIP } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { codes } from '../errors.ts'

/** Names that are not in the public DNS: RFC 6761, RFC 6762, the reserved `.internal`, and those of Kubernetes. */
const reserved = /(?:^|\.)(?:localhost|local|internal|svc)$/

/** @param listed `admin.host` and `admin.hosts`. */
export function refuseForeignHosts(app: FastifyInstance, listed: readonly string[]): void {
  const known = listed.map((name) => name.toLowerCase())
  const { status, title } = codes.ERR_HOST_UNKNOWN
  const detail =
    'The admin port answers addresses, names without a dot and reserved names. List others in admin.hosts.'
  app.addHook('onRequest', async (request, reply) => {
    if (!isForeignHost(request.raw.rawHeaders, known)) return
    reply.code(status).header('cache-control', 'no-store')
    await reply.send({ title, status, code: 'ERR_HOST_UNKNOWN', detail })
  })
}

/** @param rawHeaders As Node.js has them: a second `Host` is hidden elsewhere. */
function isForeignHost(rawHeaders: readonly string[], known: readonly string[]): boolean {
  const hosts: string[] = []
  for (let i = 0; i < rawHeaders.length; i += 2)
    if (rawHeaders[i]!.toLowerCase() === 'host') hosts.push(rawHeaders[i + 1]!)
  // Probes of HTTP/1.0 send none, and browsers always one.
  if (hosts.length === 0) return false
  const [, bracketed, plain] =
    /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]*))(?::\d{1,5})?$/.exec(hosts[0]!) ?? []
  const name = (bracketed ?? plain ?? '').toLowerCase().replace(/\.$/, '')
  if (hosts.length > 1 || !/^[a-z0-9._:-]+$/.test(name)) return true
  if (isIP(name) !== 0 || known.includes(name) || reserved.test(name)) return false
  return name.includes('.') || name.includes(':')
}
