/**
 * Checks from which web pages a browser may open a WebSocket or send a cookie. Browsers apply no cross-origin rules
 * to WebSockets, and send a cookie whichever page makes the request; so the route lists the allowed origins (RFC 6455
 * section 10.2).
 */
import { safeMethods } from '../domain/http.ts'
import { GateError } from '../errors.ts'

export interface OriginCheck {
  readonly method: string
  readonly upgrade: boolean
  /** True if the credential is a cookie, which browsers send by themselves. */
  readonly ambient: boolean
}

/** @param origin Value of the single `Origin` header. @throws GateError ERR_ORIGIN_NOT_ALLOWED */
export function checkOrigin(
  route: { readonly origins?: readonly string[] },
  origin: string | undefined,
  { method, upgrade, ambient }: OriginCheck,
): void {
  const { origins } = route
  // A browser may omit Origin for a safe request (a followed link), but sends it with changes and with WebSockets.
  const needed = ambient && (upgrade || !safeMethods.has(method))
  const checked = ambient || origins !== undefined
  if (!checked || (origin === undefined && !needed)) return
  if (origin === undefined || !origins?.includes(origin))
    throw new GateError('ERR_ORIGIN_NOT_ALLOWED')
}
