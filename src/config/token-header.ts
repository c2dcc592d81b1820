/** Which headers may carry a token of their own (`header:NAME`): those that neither the gate nor an upstream reads for anything else. */
import { hopByHop } from '../domain/http.ts'

/** Headers with a meaning in HTTP or for the gate, and lists, whose values may come in parts. Lower case. */
const taken: ReadonlySet<string> = new Set([
  ...hopByHop,
  ...['authorization', 'cookie', 'set-cookie', 'host', 'origin', 'referer', 'user-agent', 'from'],
  ...['date', 'dpop', 'expect', 'range', 'via', 'warning', 'link', 'prefer', 'pragma', 'priority'],
  ...['baggage', 'traceparent', 'tracestate', 'http2-settings', 'x-method-override'],
  ...['forwarded', 'x-real-ip', 'x-client-ip', 'true-client-ip', 'cf-connecting-ip'],
])
const takenBeginning =
  /^(?:accept|access-control|cache|client-cert|content|if|proxy|sec|ssl-client|x-amzn-mtls|x-dropgate|x-envoy|x-forwarded|x-http|x-original|x-ssl)(?:-|$)/
/** What oauth2-proxy writes, the only one of `x-forwarded-*` that tells nothing of the way of the request. */
const free = 'x-forwarded-access-token'

/** @param name Lower case. */
export function mayCarryToken(name: string): boolean {
  return name === free || !(taken.has(name) || takenBeginning.test(name))
}
