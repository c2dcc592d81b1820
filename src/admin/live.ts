/**
 * The paths `/v1/live` (list open exchanges page by page) and `/v1/live/:id/cut` (cut one of them).
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { LiveEntry, LiveFilter } from '../domain/live-entry.ts'

export interface LiveQuery {
  readonly filter: LiveFilter
  /** The position at which the previous page ended. */
  readonly after: { readonly worker: number; readonly seq: number }
  readonly limit: number
}

export interface LivePage {
  readonly exchanges: readonly LiveEntry[]
  /** Pass it as `after` to get the next page; null after the last page. */
  readonly next: string | null
  /** Workers that did not answer in time: their exchanges are missing from the page. */
  readonly silent_workers: readonly number[]
}

export interface LiveOptions {
  readonly live: (query: LiveQuery) => Promise<LivePage>
  /** Resolves with the exchange that was cut; undefined if no open exchange has this id. */
  readonly cut: (id: string) => Promise<LiveEntry | undefined>
}

type Guard = (request: FastifyRequest, reply: FastifyReply) => Promise<void>

const filters = ['issuer', 'subject', 'client_id', 'route', 'protocol'] as const
const maxLimit = 1000

export function serveLive(app: FastifyInstance, guard: Guard, { live, cut }: LiveOptions): void {
  app.get('/v1/live', { onRequest: guard }, async (request, reply) => {
    const query = readQuery(request.query as Record<string, unknown>)
    if (query === undefined) return await reply.code(400).send(problem(400, 'ERR_USAGE'))
    return await reply.header('cache-control', 'no-store').send(await live(query))
  })
  app.post('/v1/live/:id/cut', { onRequest: guard }, async (request, reply) => {
    const { id } = request.params as { id: string }
    const entry = await cut(id)
    if (entry === undefined) return await reply.code(404).send(problem(404, 'ERR_NOT_FOUND'))
    return await reply.send({ cut: entry, row: rowAgainst(entry) })
  })
}

/** Returns undefined for a query with unknown parts: if a filter were ignored, the page would list too much. */
function readQuery(query: Record<string, unknown>): LiveQuery | undefined {
  const filter: Record<string, string> = {}
  let limit = 100
  let after = { worker: 0, seq: 0 }
  for (const [name, value] of Object.entries(query)) {
    if (typeof value !== 'string') return undefined
    if ((filters as readonly string[]).includes(name)) filter[name] = value
    else if (name === 'limit' && /^\d{1,4}$/.test(value)) limit = Number(value)
    else if (name === 'after' && /^\d{1,3}\.\d{1,16}$/.test(value)) {
      const [worker, seq] = value.split('.').map(Number)
      after = { worker: worker!, seq: seq! }
    } else return undefined
  }
  return limit >= 1 && limit <= maxLimit ? { filter, after, limit } : undefined
}

/**
 * Returns the columns of a revocation that would keep this caller out: the session, which outlives the token, or else
 * the subject. Null for a caller without a token.
 */
function rowAgainst(entry: LiveEntry): Record<string, string> | null {
  const { issuer, subject, session_id } = entry
  if (issuer === null || subject === null) return null
  return session_id === null ? { issuer, subject } : { issuer, session_id }
}

function problem(status: number, code: string): object {
  return { status, code }
}
