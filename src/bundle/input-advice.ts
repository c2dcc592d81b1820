/**
 * What to write for a field that `input` does not have: the nearest field, or where the gate keeps what other programs call by
 * that name. A rule that reads such a field never applies, and opa alone would not say so.
 */
import { nearest } from '../domain/nearest.ts'

/** The answer of `opa check --schema` about one reference. */
interface UndefinedRef {
  readonly ref: readonly { readonly value: unknown }[]
  /** Place in `ref` of the part that is not known. */
  readonly pos: number
  /** The names that are known there. */
  readonly oneOf?: readonly unknown[]
}

const caller =
  'input.principal, the verified caller, with subject, client_id, tenant, scopes and the claims of its token'
const http = 'input.attributes.request.http'
const question =
  'derive it from the method and input.parsed_path of the HTTP request, or take it from its body, input.parsed_body'

/** What other programs call the fields of a request, below `input`. */
const elsewhere: Readonly<Record<string, string>> = {
  action: question,
  body: 'input.parsed_body',
  caller,
  claims: 'input.principal.claims',
  client_ip: 'input.attributes.source.address.socketAddress.address',
  context: question,
  email: 'input.principal.claims.email',
  groups: 'input.principal.claims.groups',
  headers: `${http}.headers, with names in lower case`,
  host: `${http}.host`,
  identity: caller,
  ip: 'input.attributes.source.address.socketAddress.address',
  jwt: 'input.principal.claims: the gate has verified the token',
  method: `${http}.method`,
  operation: question,
  path: `input.parsed_path, a list of segments, or ${http}.path, a text with the query`,
  permission: question,
  query: 'input.parsed_query, where each value is a list',
  query_params: 'input.parsed_query, where each value is a list',
  remote_addr: 'input.attributes.source.address.socketAddress.address',
  request: `${http}, with method, path and headers; a document that comes as the body, such as an AdmissionReview, is input.parsed_body`,
  requestContext: question,
  resource: question,
  role: 'input.principal.claims.role',
  roles: 'input.principal.claims.roles',
  service: 'input.route.name',
  source_ip: 'input.attributes.source.address.socketAddress.address',
  sub: 'input.principal.subject',
  subject: 'input.principal.subject',
  tenant: 'input.principal.tenant',
  token: 'input.principal.claims: the gate has verified the token',
  uri: `input.parsed_path, a list of segments, or ${http}.path, a text with the query`,
  url: `input.parsed_path, a list of segments, or ${http}.path, a text with the query`,
  user: caller,
  username: 'input.principal.subject',
  var: `${http}.headers, input.parsed_path and input.parsed_query`,
}

/** @param details What opa says beside its message. @returns the message, with advice where it is about the input */
export function adviseInput(message: string, details: unknown): string {
  const { ref, pos, oneOf = [] } = (details ?? {}) as Partial<UndefinedRef>
  if (ref === undefined || pos === undefined || ref[0]?.value !== 'input') return message
  const names = oneOf.filter((name) => typeof name === 'string')
  const unknown = ref[pos]?.value
  const path = ref.slice(0, pos).map(({ value }) => value)
  if (typeof unknown !== 'string' || names.length === 0) return message
  const near = nearest(unknown, names)
  const known = pos === 1 && Object.hasOwn(elsewhere, unknown) ? elsewhere[unknown] : undefined
  const instead =
    (known === undefined ? undefined : `instead: ${known}`) ??
    (near === undefined
      ? `${path.join('.')} has ${names.join(', ')}`
      : `did you mean ${[...path, near].join('.')}?`)
  return `${[...path, unknown].join('.')} is not in the input of the gate, so what reads it never applies; ${instead}`
}
