/**
 * Checks from which web pages a browser may open a WebSocket or send a credential that it adds by itself. Browsers apply
 * no cross-origin rules to WebSockets, and send a cookie whichever page makes the request; so the route lists the allowed
 * origins (RFC 6455 section 10.2).
 */
import { safeMethods } from '../domain/http.ts'
import { GateError } from '../errors.ts'

export interface OriginCheck {
  readonly method: string
  readonly upgrade: boolean
  /** How browsers add the credential by themselves, see identity/credential.ts; undefined: they do not. */
  readonly ambient: 'cookie' | 'proxy' | undefined
}

/** @param origin Value of the single `Origin` header. @throws GateError ERR_ORIGIN_NOT_ALLOWED */
export function checkOrigin(
  route: { readonly origins?: readonly string[] },
  origin: string | undefined,
  { method, upgrade, ambient }: OriginCheck,
): void {
  const { origins } = route
  // A browser may omit Origin for a safe request (a followed link), but sends it with changes and with WebSockets.
  // Behind an identity-aware proxy, programs without cookies come the same way as browsers, and send none.
  const needed = ambient === 'cookie' && (upgrade || !safeMethods.has(method))
  const checked = ambient !== undefined || origins !== undefined
  if (!checked || (origin === undefined && !needed)) return
  if (origin !== undefined && origins?.includes(origin)) return
  const found = origin === undefined ? 'missing' : JSON.stringify(origin)
  const cause = `its Origin is ${found}, expected one of routes[].origins: ${JSON.stringify(origins ?? [])}`
  throw new GateError('ERR_ORIGIN_NOT_ALLOWED', undefined, { cause })
}
