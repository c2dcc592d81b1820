/**
 * The builtins that the host provides, by name, and those that it refuses, each with advice on what to use instead.
 * OPA compiles all other builtins into the module. A bundle that needs a missing builtin is refused when it is
 * vetted.
 */

import type { Builtin, BuiltinTable } from './builtin.ts'
import { cryptoBuiltins } from './crypto/crypto.ts'
import { jwtBuiltins } from './crypto/jwt.ts'
import { x509Builtins } from './crypto/x509.ts'
import { diagnosticBuiltins } from './diagnostics.ts'
import { encodingBuiltins } from './go/encoding.ts'
import { escapingBuiltins } from './go/escaping.ts'
import { globBuiltins } from './go/glob-match.ts'
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
import { jsonPathBuiltins } from './json/json-paths.ts'
import { jsonSchemaBuiltins } from './json/json-schema.ts'
import { jsonTextBuiltins } from './json/json-text.ts'
import { yamlBuiltins } from './json/yaml.ts'
import { arithmeticBuiltins } from './values/arithmetic.ts'
import { castBuiltins } from './values/casts.ts'
import { collectionBuiltins } from './values/collections.ts'
import { graphBuiltins } from './values/graph.ts'
import { letterBuiltins } from './values/letters.ts'
import { numberBuiltins } from './values/numbers.ts'
import { stringBuiltins } from './values/strings.ts'
import { subsetBuiltins } from './values/subset.ts'
import { unitBuiltins } from './values/units.ts'

export const builtins: ReadonlyMap<string, Builtin> = new Map(
  [
    arithmeticBuiltins,
    castBuiltins,
    collectionBuiltins,
    cryptoBuiltins,
    diagnosticBuiltins,
    encodingBuiltins,
    escapingBuiltins,
    globBuiltins,
    graphBuiltins,
    jsonPathBuiltins,
    letterBuiltins,
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
    jsonTextBuiltins,
    netBuiltins,
  ].flatMap((table: BuiltinTable) => Object.entries(table)),
)

const noPrivateKeys =
  'a policy only verifies signatures: give it public keys, as certificates or JWKs'

/** Refused builtins, each with what to use instead. */
export const refused: Readonly<Record<string, string>> = {
  'crypto.parse_private_keys': noPrivateKeys,
  'crypto.x509.parse_keypair': noPrivateKeys,
  'crypto.x509.parse_rsa_private_key': noPrivateKeys,
  'crypto.x509.parse_certificate_request':
    'certificate requests are not needed for a decision: for certificates use crypto.x509.parse_certificates',
  'http.send': 'a decision never waits for the network: put the data into the bundle',
  'net.lookup_ip_addr':
    'a decision never waits for the network: compare addresses with net.cidr_contains',
  'opa.runtime': 'a policy must not read the environment of the gate: use labels of the route',
  'providers.aws.sign_req':
    'it signs requests for http.send, which is refused; do not put cloud credentials into a bundle',
  'rego.parse_module': 'policies are compiled before they are loaded',
}

/** @returns The name of the builtin and, if it is refused, what to use instead. */
export function explainMissing(name: string): string {
  const why = refused[name]
  return why === undefined ? name : `${name} (${why})`
}
