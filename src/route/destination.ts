/**
 * The second resource of COPY and MOVE (RFC 4918 section 10.3). The policy decides on the target of the request and sees
 * this one only as a header; so it must be a target that the same route serves, in the form in which it is compared, and
 * with no other route below either of them.
 */
import { GateError } from '../errors.ts'
import type { Route, RouteTable } from './table.ts'
import {
  checkTarget,
  parseRequestTarget,
  readAuthority,
  type Target,
  type TargetOptions,
} from './target.ts'

const absolute = /^https?:\/\/([^/?#]+)(?=[/?]|$)/i

/**
 * @param destination Value of the header, a URL of this host or a path.
 * @throws GateError ERR_TARGET_MALFORMED
 */
export function checkDestination(
  destination: string,
  target: Target,
  { route, routes }: { readonly route: Route; readonly routes: RouteTable },
  options: TargetOptions,
): void {
  const cause = servedElsewhere(destination, target, { route, routes }, options)
  if (cause !== undefined) throw new GateError('ERR_TARGET_MALFORMED', undefined, { cause })
}

function servedElsewhere(
  destination: string,
  target: Target,
  { route, routes }: { readonly route: Route; readonly routes: RouteTable },
  options: TargetOptions,
): string | undefined {
  try {
    const [origin = '', authority] = absolute.exec(destination) ?? []
    const path = destination.slice(origin.length)
    // Behind a proxy the URL may have another scheme and port than the gate's.
    if (authority !== undefined && readAuthority(authority, options.scheme).host !== target.host)
      return 'its Destination names another host'
    const asked = parseRequestTarget('GET', path, target.authority, options)
    if (checkTarget(asked, route.config).wire !== path)
      return 'its Destination is not in the form in which targets are compared'
    if (routes.find(asked) !== route) return 'its Destination is not served by this route'
    // COPY and MOVE take all that is below with them (RFC 4918 section 9.8.3), also what a stricter route serves.
    return routes.hasBelow(target) || routes.hasBelow(asked)
      ? 'another route begins below it or below its Destination'
      : undefined
  } catch {
    return 'its Destination is not a target'
  }
}
