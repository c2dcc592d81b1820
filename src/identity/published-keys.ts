/**
 * Reads the key set that one issuer publishes: from a file, from `jwks_uri`, or from the address in the issuer's metadata.
 * Remembers the last documents with their entity tags, so that an issuer need not send again what it has not changed.
 * When a set cannot be used they are forgotten: the next answer is a whole one.
 */
import { readFile } from 'node:fs/promises'
import type { IssuerConfig } from '../config/options.ts'
import { isTrusted } from '../config/trust.ts'
import type { DocumentAnswer, FetchDocument } from '../domain/document.ts'
import { withTenant } from '../domain/issuer-pattern.ts'
import { hideInAddress } from '../domain/secrets.ts'
import { GateError } from '../errors.ts'
import { type Admitted, admitKeys } from './admit.ts'

export interface Published extends Admitted {
  /** How long the issuer says that the set may be used, in ms; undefined where it does not say. */
  readonly freshMs: number | undefined
}

interface Known {
  readonly etag: string
  readonly text: string
}

const limits = { maxBytes: 256 * 1024, timeoutMs: 5000 }
const maxTokenLength = 16 * 1024
/** RFC 6750 section 2.1. */
const bearerToken = /^[\w.~+/-]+=*$/

export class PublishedKeys {
  readonly #config: IssuerConfig
  readonly #fetchDocument: FetchDocument
  /** By URL: the documents of the last reading, which was a good one. */
  #known: ReadonlyMap<string, Known> = new Map()
  /** The URL of the issuer's metadata, once it was found. */
  #metadata: string | undefined

  constructor(config: IssuerConfig, fetchDocument: FetchDocument) {
    this.#config = config
    this.#fetchDocument = fetchDocument
  }

  /** One reading at a time. @throws GateError ERR_OUTBOUND, ERR_CONFIG_FILE */
  async read(): Promise<Published> {
    const { jwks_file: file, jwks_uri, algorithms } = this.#config
    if (file !== undefined) {
      const text = await readText(file, limits.maxBytes)
      return { ...admitKeys(text, algorithms, file), freshMs: undefined }
    }
    const seen = new Map<string, Known>()
    const known = this.#known
    this.#known = new Map()
    const get = (url: string) => this.#get(url, known, seen)
    const uri = jwks_uri ?? (await this.#discover(get))
    const { text, freshMs } = present(uri, await get(uri))
    const admitted = admitKeys(text, algorithms, hideInAddress(uri))
    this.#known = seen
    return { ...admitted, freshMs }
  }

  async #get(
    url: string,
    known: ReadonlyMap<string, Known>,
    seen: Map<string, Known>,
  ): Promise<Read> {
    const { tls, proxy, http_networks: httpNetworks } = this.#config.fetch
    const before = known.get(url)
    const headers = await this.#headersFor(url)
    const request = { ...limits, headers, etag: before?.etag, ca: tls?.ca, proxy, httpNetworks }
    const answer = await this.#fetchDocument(url, request)
    if (answer.kind === 'absent') return answer
    const text = answer.kind === 'text' ? answer.text : before!.text
    const etag = answer.etag ?? (answer.kind === 'unchanged' ? before!.etag : undefined)
    if (etag !== undefined) seen.set(url, { etag, text })
    return { kind: 'text', text, etag, freshMs: answer.freshMs }
  }

  /**
   * The secrets of the configuration go to the origin that the configuration names: the issuer's metadata may name any
   * other for its keys.
   */
  async #headersFor(url: string): Promise<Readonly<Record<string, string>>> {
    const { issuer, jwks_uri, fetch } = this.#config
    const { headers = {}, token_file: file } = fetch
    if (new URL(url).origin !== new URL(jwks_uri ?? issuer).origin) return {}
    const sent = Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value])
    if (file !== undefined) sent.push(['authorization', `Bearer ${await readToken(file)}`])
    return Object.fromEntries(sent)
  }

  /**
   * Finds the URL of the keys: OpenID Connect Discovery 1.0 section 4, and where nothing is there, RFC 8414 section 3. The
   * document must name exactly the issuer that it was requested for.
   */
  async #discover(get: (url: string) => Promise<Read>): Promise<string> {
    const { issuer } = this.#config
    const places = metadataUrls(issuer)
    const last = this.#metadata
    const ordered = last === undefined ? places : [last, ...places.filter((url) => url !== last)]
    const absent: string[] = []
    for (const url of ordered) {
      const answer = await get(url)
      if (answer.kind === 'absent') {
        absent.push(`${url}: status ${answer.status}`)
        continue
      }
      const uri = keysUrlIn(url, answer.text, this.#config)
      this.#metadata = url
      return uri
    }
    throw new GateError('ERR_OUTBOUND', absent.join('; '), {
      hint: 'check the name of the issuer; if it publishes no metadata, write the address of its keys in issuers[].jwks_uri',
    })
  }
}

type Read = Exclude<DocumentAnswer, { kind: 'unchanged' }>

/**
 * RFC 8414 section 3.1 puts the path of the issuer behind the well-known one. The metadata of all tenants are those of the
 * tenant `common`, and name the pattern.
 */
function metadataUrls(issuer: string): readonly string[] {
  const bare = withTenant(issuer, 'common').replace(/\/$/, '')
  const { origin } = new URL(bare)
  const path = new URL(bare).pathname.replace(/^\/$/, '')
  return [
    `${bare}/.well-known/openid-configuration`,
    `${origin}/.well-known/oauth-authorization-server${path}`,
  ]
}

function keysUrlIn(url: string, text: string, { issuer, fetch }: IssuerConfig): string {
  let document: { issuer?: unknown; jwks_uri?: unknown } | null
  try {
    document = JSON.parse(text)
  } catch (error) {
    throw new GateError('ERR_OUTBOUND', `${url} is not JSON`, { cause: error })
  }
  if (document?.issuer !== issuer) {
    throw new GateError('ERR_OUTBOUND', `${url} names another issuer`, {
      hint: 'write the issuer exactly as its discovery document does, including a final slash',
    })
  }
  const { jwks_uri: uri } = document
  if (typeof uri === 'string' && isTrusted(uri, fetch)) return uri
  throw new GateError('ERR_OUTBOUND', `${url} does not contain a jwks_uri that starts with https`)
}

function present(url: string, answer: Read): Extract<Read, { kind: 'text' }> {
  if (answer.kind === 'text') return answer
  throw new GateError('ERR_OUTBOUND', `${hideInAddress(url)}: status ${answer.status}`, {
    hint: 'check the address of the keys',
  })
}

/** Read for each request: the token may have been renewed. */
async function readToken(file: string): Promise<string> {
  const text = (await readText(file, maxTokenLength)).trim()
  if (bearerToken.test(text)) return text
  throw new GateError('ERR_CONFIG_FILE', `${file} holds no bearer token`, {
    hint: 'the file must hold the token alone',
  })
}

async function readText(file: string, maxLength: number): Promise<string> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new GateError('ERR_CONFIG_FILE', `${file} cannot be read (${code})`, {
      cause: error,
      hint: 'restore the file, readable by the user of the gate; the gate reads it again automatically',
    })
  }
  if (text.length <= maxLength) return text
  throw new GateError('ERR_CONFIG_FILE', `${file} is too large`)
}
