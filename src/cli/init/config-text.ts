/** The configuration that `init` writes: what a first gate needs, with a reason for each line. */
import { logins } from './logins.ts'

export interface Answers {
  readonly issuer: string
  readonly audience: string
  readonly upstream: string
  /** URL of the database, without a login. */
  readonly database: string
  readonly host: string
  readonly port: string
  readonly adminPort: string
  readonly preset: string | undefined
}

/** The options that hold an answer. */
export const optionOf: Readonly<Record<keyof Answers, string>> = {
  issuer: 'issuers[0].issuer',
  audience: 'issuers[0].audience',
  upstream: 'routes[0].upstream',
  database: 'database',
  host: 'listen[0].host',
  port: 'listen[0].port',
  adminPort: 'admin.port',
  preset: 'issuers[0].preset',
}

export function configText(answers: Answers): string {
  const { issuer, audience, upstream, database, host, port, adminPort, preset } = answers
  const urls = logins.map(({ name, variable, option, what }) => {
    const url = database.replace('://', `://${name}:\${${variable}}@`)
    return `  # For ${what}.\n  ${option}: ${text(url)}`
  })
  const presetLine =
    preset === undefined
      ? '# preset: keycloak # or entra, okta, auth0, cognito and others: see docs/providers.md'
      : `preset: ${text(preset)} # where the tokens of this provider have sessions and groups; accepts any typ`
  return `# The configuration of a gate, made by \`dropgate init\`. \`dropgate config check\` lists every mistake in it; the README has all
# options. \${NAME} stands for the environment variable NAME: those of this file are in dropgate.env.

# Where clients connect.
listen:
  host: ${text(host)} # 127.0.0.1 is this machine only; 0.0.0.0 is every address of it
  port: ${number(port)}

# For operators and monitoring: /readyz, /metrics, and what \`dropgate status\`, \`live\` and \`cut\` ask.
admin:
  port: ${number(adminPort)}

# The PostgreSQL with the revocations, and a login for each kind of work. dropgate-logins.sql makes them.
database:
${urls.join('\n')}

# Whose tokens are accepted. The keys are found by OpenID Connect discovery at the address of the issuer.
issuers:
  - issuer: ${text(issuer)} # exactly as in the claim iss
    audience: [${text(audience)}] # the claim aud must name one of these
    ${presetLine}

# The policy: the gate takes the newest bundle in this folder, which \`dropgate build\` makes from policies/.
policy:
  bundles: bundles

# One JSON line for each decision.
decision_log:
  sink: stdout

# Where allowed requests are sent. A request without a token is refused, unless its route says auth: none.
routes:
  - name: service # in logs, metrics and the policy
    path: / # this path and everything below it
    upstream: ${text(upstream)} # your service, without a path
`
}

/** A text in quotes: YAML reads those of JSON. */
function text(value: string): string {
  return JSON.stringify(value)
}

/** What is no number is quoted: the check of the configuration says what was expected. */
function number(value: string): string {
  return /^\d{1,9}$/.test(value) ? value : text(value)
}
