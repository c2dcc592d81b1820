/**
 * The builtins that the host provides, by name, and those it refuses, each with what to use instead. All others of
 * OPA are compiled into the module. A bundle that needs one that is not provided is refused when it is vetted.
 */

import type { Builtin, BuiltinTable } from './builtin.ts'
import { cryptoBuiltins } from './crypto/crypto.ts'
import { jwtBuiltins } from './crypto/jwt.ts'
import { x509Builtins } from './crypto/x509.ts'
import { diagnosticBuiltins } from './diagnostics.ts'
import { encodingBuiltins } from './go/encoding.ts'
import { escapingBuiltins } from './go/escaping.ts'
import { netBuiltins } from './go/net.ts'
import { regexBuiltins } from './go/regex.ts'
import { semverBuiltins } from './go/semver.ts'
import { sprintfBuiltins } from './go/sprintf.ts'
import { templateBuiltins } from './go/template.ts'
import { timeBuiltins } from './go/time.ts'
import { uriBuiltins } from './go/uri.ts'
import { uuidBuiltins } from './go/uuid.ts'
import { graphqlBuiltins } from './graphql/graphql.ts'
import { jsonMarshalBuiltins } from './json/json-marshal.ts'
import { jsonPatchBuiltins } from './json/json-patch.ts'
import { jsonSchemaBuiltins } from './json/json-schema.ts'
import { yamlBuiltins } from './json/yaml.ts'
import { castBuiltins } from './values/casts.ts'
import { graphBuiltins } from './values/graph.ts'
import { numberBuiltins } from './values/numbers.ts'
import { stringBuiltins } from './values/strings.ts'
import { subsetBuiltins } from './values/subset.ts'
import { unitBuiltins } from './values/units.ts'

export const builtins: ReadonlyMap<string, Builtin> = new Map(
  [
    castBuiltins,
    cryptoBuiltins,
    diagnosticBuiltins,
    encodingBuiltins,
    escapingBuiltins,
    graphBuiltins,
    graphqlBuiltins,
    jwtBuiltins,
    numberBuiltins,
    regexBuiltins,
    semverBuiltins,
    sprintfBuiltins,
    stringBuiltins,
    subsetBuiltins,
    templateBuiltins,
    timeBuiltins,
    unitBuiltins,
    uriBuiltins,
    uuidBuiltins,
    x509Builtins,
    yamlBuiltins,
    jsonMarshalBuiltins,
    jsonPatchBuiltins,
    jsonSchemaBuiltins,
    netBuiltins,
  ].flatMap((table: BuiltinTable) => Object.entries(table)),
)

const noPrivateKeys = 'a decision verifies: give public keys, as certificates or JWKs'

/** Each with what to use instead. */
export const refused: Readonly<Record<string, string>> = {
  'crypto.parse_private_keys': noPrivateKeys,
  'crypto.x509.parse_keypair': noPrivateKeys,
  'crypto.x509.parse_rsa_private_key': noPrivateKeys,
  'crypto.x509.parse_certificate_request':
    'a decision is taken about certificates, not about requests for them: use crypto.x509.parse_certificates',
  'http.send':
    'a decision never waits for the network: put what it would fetch into the bundle or into grants',
  'net.lookup_ip_addr':
    'a decision never waits for the network: compare addresses with net.cidr_contains',
  'opa.runtime': 'the environment of the gate is not a policy’s to read: use labels of the route',
  'providers.aws.sign_req':
    'it signs requests for http.send, which is refused; no cloud credential belongs into a bundle',
  'rego.parse_module': 'policies are compiled before they are loaded',
}

/** @returns the name, and for a refused builtin what to use instead. */
export function explainMissing(name: string): string {
  const why = refused[name]
  return why === undefined ? name : `${name} (${why})`
}
