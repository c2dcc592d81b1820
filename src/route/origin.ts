/**
 * From which pages a browser may use what it sends by itself. A WebSocket knows no cross-origin rules of the browser's,
 * and a cookie comes along whoever asked: there the route's list of origins stands in (RFC 6455 section 10.2).
 */
import { safeMethods } from '../domain/http.ts'
import { GateError } from '../errors.ts'

export interface Asked {
  readonly method: string
  readonly upgrade: boolean
  /** The credential is a cookie. */
  readonly ambient: boolean
}

/** @param origin The only `Origin` header. @throws GateError ERR_ORIGIN_NOT_ALLOWED */
export function checkOrigin(
  route: { readonly origins?: readonly string[] },
  origin: string | undefined,
  { method, upgrade, ambient }: Asked,
): void {
  const { origins } = route
  // A page that only reads by a link or an address sends no Origin; one that changes something or opens a socket does.
  const needed = ambient && (upgrade || !safeMethods.has(method))
  const checked = ambient || origins !== undefined
  if (!checked || (origin === undefined && !needed)) return
  if (origin === undefined || !origins?.includes(origin))
    throw new GateError('ERR_ORIGIN_NOT_ALLOWED')
}
