/**
 * Turns what an upstream says of its own URLs into what clients use: `Location`, `Content-Location` and the paths of
 * cookies, on routes that change the path or the host on the way. Only URLs of the upstream itself are changed, those
 * of other origins never.
 */

/** The part of a route that is needed here. */
export interface Moved {
  readonly config: { readonly upstream: string }
  readonly sentHost: string | undefined
  readonly rewrite: { readonly base: string; readonly prefix: string } | undefined
}

/** @param name Header name in lower case. @returns The value for the client. */
export type PublicUrls = (name: string, value: string) => string

/**
 * Returns undefined for a route whose upstream has the same URLs as its clients.
 * @param authority Host and port of the request.
 */
export function publicUrlsOf(route: Moved, authority: string): PublicUrls | undefined {
  const { rewrite, sentHost, config } = route
  if (rewrite === undefined && sentHost === undefined) return undefined
  const { base, prefix } = rewrite ?? { base: '', prefix: '' }
  const toPublic = (path: string): string => publicPath(path, base, prefix)
  return (name, value) => {
    if (name === 'location' || name === 'content-location') {
      // The hosts by which the upstream may call itself: as it was told, and as it is configured.
      const hosts = [sentHost ?? authority, new URL(config.upstream).host]
      return publicUrl(value, hosts, toPublic)
    }
    return name === 'set-cookie' ? publicCookie(value, toPublic) : value
  }
}

/** Path, query and fragment of a URL; the first group is `scheme://host`, `//host` or nothing. */
const url = /^((?:https?:)?\/\/[^/?#\\]+)?(\/[^?#]*)?((?:[?#].*)?)$/i

function publicUrl(
  value: string,
  hosts: readonly string[],
  toPublic: (path: string) => string,
): string {
  const [, origin, path = '', rest = ''] = url.exec(value) ?? []
  if (origin !== undefined) {
    const host = origin.replace(/^(?:https?:)?\/\//i, '').toLowerCase()
    if (!hosts.includes(host)) return value
  } else if (path === '' || path.startsWith('//')) return value
  const own = toPublic(path === '' ? '/' : path)
  // What is left of `/v1//other.example` would lead a browser to another origin.
  return /^\/\t*[/\\]/.test(own) ? value : own + rest
}

function publicCookie(value: string, toPublic: (path: string) => string): string {
  // Browsers take a cookie with this prefix only with the path / (RFC 6265bis section 4.1.3.2).
  if (/^\s*__Host-/i.test(value)) return value
  const [pair = '', ...attributes] = value.split(';')
  return [pair, ...attributes.map((each) => publicAttribute(each, toPublic))].join(';')
}

/** By hand: a pattern with an open end tries each of the thousands of spaces that an upstream can write. */
function publicAttribute(attribute: string, toPublic: (path: string) => string): string {
  const split = attribute.indexOf('=')
  if (split === -1 || attribute.slice(0, split).trim().toLowerCase() !== 'path') return attribute
  const start = attribute.slice(split + 1).trimStart()
  const path = start.trimEnd()
  if (!path.startsWith('/')) return attribute
  const whole = toPublic(path)
  // A cookie for /app/ would not come with a request for /app.
  const own = path === '/' && whole.length > 1 ? whole.replace(/\/$/, '') : whole
  return attribute.slice(0, attribute.length - start.length) + own + start.slice(path.length)
}

/** Puts the route's prefix in place of the base path. A path beside the base path has no place at the gate. */
function publicPath(path: string, base: string, prefix: string): string {
  if (!path.startsWith(base)) return path
  const rest = path.slice(base.length)
  if (rest !== '' && !rest.startsWith('/')) return path
  return prefix + rest === '' ? '/' : prefix + rest
}
