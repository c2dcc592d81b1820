/**
 * Checks from which web pages a browser may open a WebSocket or send a credential that it adds by itself. Browsers apply
 * no cross-origin rules to WebSockets, and send a cookie whichever page makes the request; so the route lists the allowed
 * origins (RFC 6455 section 10.2).
 */
import { safeMethods } from '../domain/http.ts'
import { GateError } from '../errors.ts'

export interface OriginCheck {
  /** Host and port of the request, see target.ts. */
  readonly authority: string
  /** Value of `Sec-Fetch-Site`, which a page cannot set; undefined when the browser sends none. */
  readonly fetchSite: string | undefined
  readonly method: string
  readonly upgrade: boolean
  /** How browsers add the credential by themselves, see identity/credential.ts; undefined: they do not. */
  readonly ambient: 'cookie' | 'proxy' | undefined
}

/** @param origin Value of the single `Origin` header. @throws GateError ERR_ORIGIN_NOT_ALLOWED */
export function checkOrigin(
  route: { readonly origins?: readonly string[] },
  origin: string | undefined,
  { method, upgrade, ambient, authority, fetchSite }: OriginCheck,
): void {
  const { origins } = route
  // A browser may omit Origin for a safe request (a followed link), but sends it with changes and with WebSockets.
  // Behind an identity-aware proxy, programs without cookies come the same way as browsers, and send none.
  const needed = ambient === 'cookie' && (upgrade || !safeMethods.has(method))
  const checked = ambient !== undefined || origins !== undefined
  if (!checked || (origin === undefined && !needed)) return
  if (origin !== undefined && origins?.includes(origin)) return
  if (!upgrade && origin === 'null' && fetchSite === 'same-origin' && isListed(authority, origins))
    return
  const found = origin === undefined ? 'missing' : JSON.stringify(origin)
  const site = fetchSite === undefined ? '' : ` and its Sec-Fetch-Site ${JSON.stringify(fetchSite)}`
  const cause = `its Origin is ${found}${site}, expected one of routes[].origins: ${JSON.stringify(origins ?? [])}`
  throw new GateError('ERR_ORIGIN_NOT_ALLOWED', undefined, { cause })
}

/**
 * True when the pages of the request's own host are listed. A browser hides the origin of a form that it posts under
 * `Referrer-Policy: no-referrer` (`Origin: null`; Fetch section 3.2), but says by `Sec-Fetch-Site: same-origin` that the
 * page is one of this host. It says so to https only, also where a proxy in front speaks http with the gate; so the
 * scheme is not compared. `none` is no proof: a reload sends it, also of a form that a foreign page posted.
 */
function isListed(authority: string, origins: readonly string[] | undefined): boolean {
  return origins?.some((each) => each.slice(each.indexOf('://') + 3) === authority) === true
}
