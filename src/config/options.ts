/**
 * Room: config. Every option once: type, unit, default and why. From this table come the types below, the check of a
 * file (load.ts), the JSON Schema for editors (`dropgate.schema.json`) and the README's table (schema.ts).
 *
 * A leaf is written in the file with its unit (`5s`, `16KiB`) and arrives as a number (ms, bytes).
 */
import { type Static, Type } from 'typebox'
import { methods, tokenCharacters } from '../domain/http.ts'

export type Unit = 'duration' | 'size' | 'workers' | 'path' | 'pem'

/** Facts of one option beside its JSON Schema. `default` is as it would be written in the file. */
interface Facts {
  readonly why: string
  readonly default?: unknown
}

const duration = (facts: Facts) =>
  Type.Unsafe<number>({
    type: 'string',
    pattern: '^\\d+(?:\\.\\d+)?(?:ms|s|m|h|d)$',
    'x-unit': 'duration',
    'x-expected': 'a duration such as 500ms, 5s, 15m or 24h',
    ...shown(facts),
  })

const size = (facts: Facts) =>
  Type.Unsafe<number>({
    type: 'string',
    pattern: '^\\d+(?:B|KiB|MiB|GiB)$',
    'x-unit': 'size',
    'x-expected': 'a size such as 64KiB or 16MiB',
    ...shown(facts),
  })

const whole = (facts: Facts, minimum: number, maximum: number) =>
  Type.Unsafe<number>({
    type: 'integer',
    minimum,
    maximum,
    'x-expected': `a whole number from ${minimum} to ${maximum}`,
    ...shown(facts),
  })

const text = (facts: Facts, expected = 'a text that is not empty', pattern?: string) =>
  Type.Unsafe<string>({
    type: 'string',
    minLength: 1,
    ...(pattern === undefined ? {} : { pattern }),
    'x-expected': expected,
    ...shown(facts),
  })

const path = (facts: Facts) =>
  Type.Unsafe<string>({
    type: 'string',
    minLength: 1,
    'x-unit': 'path',
    'x-expected': 'a path, relative to the configuration file',
    ...shown(facts),
  })

/** A PEM file; the configuration holds its text, so that a reload takes certificates and routes together. */
const pem = (facts: Facts) =>
  Type.Unsafe<string>({
    type: 'string',
    minLength: 1,
    'x-unit': 'pem',
    'x-expected': 'a path of a PEM file, relative to the configuration file',
    ...shown(facts),
  })

const flag = (facts: Facts) =>
  Type.Unsafe<boolean>({ type: 'boolean', 'x-expected': 'true or false', ...shown(facts) })

const choice = <const T extends string>(values: readonly T[], facts: Facts) =>
  Type.Unsafe<T>({ enum: values, 'x-expected': `one of ${values.join(', ')}`, ...shown(facts) })

const texts = (facts: Facts, expected: string, pattern = '^.+$') =>
  Type.Unsafe<readonly string[]>({
    type: 'array',
    minItems: 1,
    items: { type: 'string', pattern, 'x-expected': expected },
    'x-expected': `a list: ${expected}`,
    ...shown(facts),
  })

const labels = (facts: Facts) =>
  Type.Unsafe<Readonly<Record<string, string>>>({
    type: 'object',
    additionalProperties: { type: 'string', 'x-expected': 'a text' },
    'x-expected': 'names with texts',
    ...shown(facts),
  })

const group = <P extends Parameters<typeof Type.Object>[0]>(
  properties: P,
  expected = 'a mapping',
) => Type.Object(properties, { additionalProperties: false, 'x-expected': expected })

function shown({ why, default: standard }: Facts): Record<string, unknown> {
  return standard === undefined ? { description: why } : { description: why, default: standard }
}

const optional = Type.Optional
const cidr = '^[0-9A-Fa-f:.]+(?:/\\d{1,3})?$'
const origin = '^(?:\\*|null|[a-z][a-z0-9+.-]*://[^/?#@\\s]+)$'
const headerName = '^[0-9A-Za-z-]+$'
const pointer = '^(?:/[^/]*)+$'
const entrypoint = '^[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*$'
const algorithms = [
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
]

/** Where in a token something is. */
const claim = (what: string, standard?: string) =>
  text(
    { why: `JSON pointer to ${what}.`, ...(standard === undefined ? {} : { default: standard }) },
    'a JSON pointer',
    pointer,
  )

const listen = group({
  host: text({ why: 'Address to listen on.', default: '127.0.0.1' }),
  port: whole({ why: 'Port for clients; 0 lets the system choose.', default: 8080 }, 0, 65535),
  tls: optional(
    group({
      cert: pem({ why: 'Certificate and its chain; with it the port speaks TLS 1.2 and newer.' }),
      key: pem({ why: 'Its private key.' }),
      client_ca: optional(
        pem({ why: 'Authorities of client certificates; with it clients must show one.' }),
      ),
      client_cert: choice(['required', 'optional'], {
        why: 'Whether a client without a certificate is let in; one that does not verify never is.',
        default: 'required',
      }),
    }),
  ),
  trusted_proxies: optional(
    texts(
      {
        why: 'Networks of proxies in front, whose word on the client is taken. Nobody is trusted by default, private networks neither.',
      },
      'networks such as 10.1.0.0/16',
      cidr,
    ),
  ),
  client_header: choice(['x-forwarded-for', 'forwarded'], {
    why: 'What trusted proxies write the client into, rightmost last; the other header is removed unread.',
    default: 'x-forwarded-for',
  }),
  proxy_protocol: choice(['none', 'required'], {
    why: 'Whether each connection begins with a PROXY protocol header (version 1 or 2); only from `trusted_proxies`.',
    default: 'none',
  }),
  takeover: flag({
    why: 'Lets a second gate share the port, for rolling restarts; otherwise it is refused at its start.',
    default: false,
  }),
})

const issuer = group({
  issuer: text({ why: 'The `iss` claim, character by character.' }),
  audience: texts({ why: 'Accepted `aud`; one of them must be in the token.' }, 'audience names'),
  algorithms: texts(
    {
      why: 'Accepted signature algorithms; symmetric ones do not exist here.',
      default: ['ES256', 'RS256', 'EdDSA'],
    },
    `some of ${algorithms.join(', ')}`,
    `^(?:${algorithms.join('|')})$`,
  ),
  from: texts(
    {
      why: 'Where its tokens are taken from. A request with two is refused; a cookie needs `routes[].origins`; `websocket-protocol` is a subprotocol `bearer.TOKEN`.',
      default: ['authorization'],
    },
    'authorization, cookie:NAME or websocket-protocol',
    `^(?:authorization|websocket-protocol|cookie:[${tokenCharacters}]+)$`,
  ),
  jwks_uri: optional(
    text({
      why: 'Where the keys are; without it and `jwks_file`, by discovery. https, or http on loopback.',
    }),
  ),
  jwks_file: optional(
    path({ why: 'A file with the keys instead; read again every `keys_refresh`.' }),
  ),
  preset: optional(
    choice(['keycloak', 'entra', 'okta', 'auth0'], {
      why: "Fills in `claims` and `token_types` as this provider's access tokens need them.",
    }),
  ),
  claims: group({
    token: claim('the token id', '/jti'),
    session: claim('the session id', '/sid'),
    tenant: optional(claim('the tenant')),
    groups: optional(claim('the groups, a list or a single text')),
    device: optional(claim('the device')),
    client: optional(claim('the client; else `client_id`, then `azp`, then `appid`')),
    scopes: optional(claim('the scopes; else `scope`, then `scp`')),
  }),
  token_types: choice(['at+jwt', 'any'], {
    why: '`at+jwt` is RFC 9068; `any` also takes `JWT` or no `typ`, still refusing ID, logout and event tokens.',
    default: 'at+jwt',
  }),
  max_token_lifetime: duration({
    why: 'Tokens with a longer `exp - iat` are refused: no revocation need be kept longer.',
    default: '24h',
  }),
  clock_skew: duration({ why: "How far the issuer's clock may be off.", default: '5s' }),
  boundary: choice(['inclusive', 'exclusive'], {
    why: 'Whether a cutoff hits tokens issued in the same second (`inclusive`) or lets them live.',
    default: 'inclusive',
  }),
  keys_refresh: duration({
    why: 'How often the keys are fetched in the background.',
    default: '5m',
  }),
  keys_cooldown: duration({
    why: 'Shortest time between fetches that unknown keys ask for, also after failures.',
    default: '30s',
  }),
  keys_max_stale: duration({
    why: 'How long the last good keys serve while the issuer is away.',
    default: '24h',
  }),
})

const route = group({
  name: text({ why: 'Name in logs, metrics and `input.route`.' }),
  host: optional(
    text({
      why: '`api.example.com` or `*.example.com`, without port; absent for hosts that no other route names.',
    }),
  ),
  path: text(
    {
      why: 'Prefix by whole segments, or `=/path` for that path alone; the longest wins.',
      default: '/',
    },
    'a path that begins with / or =/',
    '^=?/',
  ),
  upstream: text(
    { why: 'Origin that gets the allowed requests.' },
    'an origin such as http://127.0.0.1:9001, without a path',
    '^https?://[^/?#@]+/?$',
  ),
  methods: optional(
    texts(
      { why: 'Accepted methods; all when absent.' },
      `some of ${methods.join(', ')}`,
      `^(?:${methods.join('|')})$`,
    ),
  ),
  auth: choice(['required', 'none'], {
    why: '`none` lets requests without a token reach the policy.',
    default: 'required',
  }),
  origins: optional(
    texts(
      {
        why: 'Origins of the pages that may open WebSockets here or use a cookie; needed where cookies are taken.',
      },
      'origins such as https://app.example.com',
      '^[a-z][a-z0-9+.-]*://[^/?#@\\s]+$',
    ),
  ),
  audience: optional(
    texts({ why: "Accepted `aud` here, instead of the issuer's." }, 'audience names'),
  ),
  decision: optional(
    text(
      { why: 'Entrypoint; `policy.decision` when absent.' },
      'an entrypoint such as gate/authz/decision',
      entrypoint,
    ),
  ),
  stale: choice(['deny', 'allow'], {
    why: 'What happens when revocations cannot be proved fresh: deny, or allow up to `hard_stop`.',
    default: 'deny',
  }),
  on_expiry: choice(['cut', 'let-finish'], {
    why: 'What happens to what is open when its token expires.',
    default: 'cut',
  }),
  limits: group({
    idle: duration({
      why: 'Without a byte either way for this long an exchange is cut; 0s for no limit.',
      default: '1h',
    }),
    age: duration({ why: 'Open this long, it is cut; 0s for no limit.', default: '0s' }),
    bytes: size({
      why: 'Past this many bytes, both ways together; 0B for no limit.',
      default: '0B',
    }),
  }),
  labels: labels({ why: 'Facts for the policy: `input.route.labels`.', default: {} }),
  timeouts: group({
    connect: duration({ why: 'For a connection to the upstream.', default: '2s' }),
    headers: duration({
      why: 'From the end of the request to the head of the answer.',
      default: '30s',
    }),
    idle: duration({ why: 'Between two pieces of the body of the answer.', default: '60s' }),
  }),
  forward: group({
    authorization: choice(['strip', 'keep'], {
      why: "Whether the upstream gets the caller's token.",
      default: 'strip',
    }),
    identity: choice(['headers', 'none'], {
      why: 'Whether it gets `x-dropgate-*` headers.',
      default: 'headers',
    }),
    remove: optional(
      texts(
        {
          why: 'Headers that are never taken from a client here: name those that the policy sets, since it may not set them every time.',
        },
        'header names',
        headerName,
      ),
    ),
  }),
  cors: optional(
    group({
      origins: texts(
        { why: 'Origins whose pages may read answers, whole and exact; `*` for any.' },
        'origins such as https://app.example.com, or *',
        origin,
      ),
      methods: optional(
        texts(
          { why: 'Methods they may use; those of the route when absent.' },
          `some of ${methods.join(', ')}`,
          `^(?:${methods.join('|')})$`,
        ),
      ),
      headers: optional(
        texts({ why: 'Request headers they may set.' }, 'header names', headerName),
      ),
      expose: optional(texts({ why: 'Answer headers they may read.' }, 'header names', headerName)),
      credentials: flag({ why: 'Whether they may send cookies; not with `*`.', default: false }),
      max_age: duration({ why: 'How long a preflight may be remembered.', default: '10m' }),
    }),
  ),
  tls: optional(
    group({
      ca: optional(
        pem({
          why: "Authorities for this upstream, instead of the system's. It is always verified.",
        }),
      ),
      cert: optional(pem({ why: 'Client certificate that the upstream gets to see.' })),
      key: optional(pem({ why: 'Its private key.' })),
      server_name: optional(
        text({ why: 'Name to ask for and to verify; the name in `upstream` when absent.' }),
      ),
    }),
  ),
  repeated_headers: choice(['refuse', 'join'], {
    why: 'What happens to headers sent twice that are no lists.',
    default: 'refuse',
  }),
  encoded_slashes: choice(['refuse', 'pass'], {
    why: 'Whether `%2F` and `%25` may be in a path; they never split a segment.',
    default: 'refuse',
  }),
  matrix_parameters: choice(['refuse', 'pass'], {
    why: 'Whether `;` or `%3B` may be in a path; the policy sees segments without them.',
    default: 'refuse',
  }),
  policy_body: choice(['read', 'withhold'], {
    why: 'Whether a policy that reads bodies gets them here; `withhold` streams them past it (`truncated_body` is true).',
    default: 'read',
  }),
  max_websockets: whole(
    { why: 'WebSockets open to this upstream, per worker; more get 503.', default: 10000 },
    1,
    1000000,
  ),
  max_connections: whole(
    { why: 'Requests under way to this upstream, per worker; more get 503.', default: 256 },
    1,
    10000,
  ),
})

export const schema = group({
  listen: Type.Array(listen, {
    'x-expected': 'a mapping with host and port, or a list of such',
    minItems: 1,
  }),
  admin: group({
    host: text({ why: 'Address of the admin port.', default: '127.0.0.1' }),
    port: whole({ why: 'Port for operators; 0 lets the system choose.', default: 8081 }, 0, 65535),
    token_file: path({
      why: 'Holds the bearer; made with mode 0600 where missing.',
      default: '.dropgate/admin.token',
    }),
    metrics_open: flag({ why: 'Whether /metrics needs no bearer.', default: false }),
  }),
  database: group(
    {
      url: optional(
        text(
          { why: "The gate's own login." },
          'a URL such as postgres://gate:password@host:5432/database',
          '^postgres(?:ql)?://',
        ),
      ),
      cli_url: optional(
        text(
          { why: 'Login of the commands; `url` when absent.' },
          'a postgres:// URL',
          '^postgres(?:ql)?://',
        ),
      ),
      migrate_url: optional(
        text(
          { why: 'Login of `migrate`; `url` when absent.' },
          'a postgres:// URL',
          '^postgres(?:ql)?://',
        ),
      ),
      embedded: optional(
        path({
          why: 'Folder of an own PostgreSQL instead; `database: embedded` is short for `.dropgate/postgres`.',
        }),
      ),
      schema: text(
        { why: 'Schema of the tables.', default: 'dropgate' },
        'a plain name',
        '^[a-z_][a-z0-9_]{0,50}$',
      ),
      role_prefix: text(
        { why: 'First part of the group roles.', default: 'dropgate_' },
        'a plain name',
        '^[a-z_][a-z0-9_]{0,40}$',
      ),
    },
    '`embedded`, or a mapping with url',
  ),
  issuers: Type.Array(issuer, { default: [], 'x-expected': 'a list of issuers' }),
  policy: group({
    bundles: path({ why: 'Folder that is watched for a bundle (`*.tar.gz`).', default: 'bundles' }),
    decision: text(
      { why: 'Entrypoint that decides.', default: 'gate/authz/decision' },
      'an entrypoint such as gate/authz/decision',
      entrypoint,
    ),
    vet_timeout: duration({ why: 'Deadline for the trial run of a new bundle.', default: '5s' }),
    settle: duration({ why: 'Quiet time after a change before it is read.', default: '100ms' }),
    max_memory: size({ why: 'Memory of one policy instance, per worker.', default: '256MiB' }),
    max_bundle: size({ why: 'Largest bundle file.', default: '64MiB' }),
    max_unpacked: size({ why: 'Largest bundle content.', default: '256MiB' }),
  }),
  revocation: group({
    max_staleness: duration({
      why: 'Without proof of freshness for this long, routes with `stale: deny` answer 503.',
      default: '5s',
    }),
    cut_after: duration({
      why: 'After this long what is open on such routes is cut as well.',
      default: '30s',
    }),
    hard_stop: duration({
      why: 'After this long every route answers 503, and what is open is cut.',
      default: '15m',
    }),
    tick: duration({
      why: 'How often freshness is proved; notifications do not wait for it.',
      default: '500ms',
    }),
    purge: duration({
      why: 'How often one of the gates deletes revocations that are provably dead; 0s for never.',
      default: '1h',
    }),
    pepper_file: optional(
      path({
        why: 'Secrets for token hashes, one a line, newest first; mode 0600, the same on every gate.',
      }),
    ),
    snapshot_file: optional(
      path({
        why: 'A file that the ledger is kept in, so that a restart reads it and then only what has changed.',
      }),
    ),
    verify: duration({
      why: 'How often the whole ledger is compared with the table, in the background; 0s for never.',
      default: '10m',
    }),
    spare: whole(
      {
        why: 'Rows of room beyond those that are loaded; more makes the ledger grow, while it serves.',
        default: 100000,
      },
      1000,
      100000000,
    ),
  }),
  decision_log: group({
    sink: optional(
      choice(['stdout'], { why: 'Decision events as JSON lines on standard output.' }),
    ),
    file: optional(path({ why: 'A file that is appended to instead.' })),
  }),
  routes: Type.Array(route, { minItems: 1, 'x-expected': 'a list of routes' }),
  upstream_networks: group({
    deny: texts(
      {
        why: 'Addresses that no upstream may have, checked each time a name is resolved and the address dialled. Names, but `localhost`, may never mean this machine.',
        default: [
          '0.0.0.0/8',
          '169.254.0.0/16',
          '224.0.0.0/4',
          '::/128',
          'fe80::/10',
          'fd00:ec2::254/128',
          'ff00::/8',
        ],
      },
      'networks such as 10.1.0.0/16',
      cidr,
    ),
  }),
  workers: Type.Unsafe<number>({
    anyOf: [{ const: 'auto' }, { type: 'integer', minimum: 1, maximum: 256 }],
    'x-unit': 'workers',
    'x-expected': 'auto or a whole number from 1 to 256',
    description: 'Threads that carry requests; `auto` is one per CPU.',
    default: 'auto',
  }),
  drain_timeout: duration({
    why: 'How long a stopping gate waits for open exchanges; it lets new connections in until all is quiet, for half of it at most.',
    default: '30s',
  }),
  limits: group({
    header_bytes: size({ why: 'All headers of a request.', default: '16KiB' }),
    headers: whole({ why: 'Headers of a request.', default: 100 }, 1, 1000),
    header_value_bytes: size({ why: 'Value of one header.', default: '8KiB' }),
    cookies: whole({ why: 'Cookies of a request.', default: 64 }, 0, 1000),
    target_bytes: size({ why: 'Path and query.', default: '8KiB' }),
    body_bytes: size({ why: 'Body of a request; 0B for no limit.', default: '0B' }),
    policy_body: size({
      why: 'Body of a request whose policy reads it: taken whole before the decision.',
      default: '64KiB',
    }),
    policy_body_timeout: duration({ why: 'Until such a body is complete.', default: '10s' }),
    header_timeout: duration({ why: 'Until the head of a request is complete.', default: '10s' }),
    request_timeout: duration({
      why: 'Until its body is complete; 0s for no limit.',
      default: '0s',
    }),
    body_idle: duration({
      why: 'Between two pieces of a body that the upstream is waiting for.',
      default: '30s',
    }),
    read_idle: duration({
      why: 'How long a client may leave a waiting answer unread.',
      default: '60s',
    }),
    connections: whole({ why: 'Client connections per worker.', default: 10000 }, 1, 1000000),
    requests: whole(
      { why: 'Requests under way per worker; more get 503.', default: 10000 },
      1,
      1000000,
    ),
    max_lag: duration({
      why: 'A worker this far behind, or with evaluations of so long in one turn, by the CPU time it has had, answers 503 to further ones until it has caught up.',
      default: '500ms',
    }),
    token_cache: size({ why: 'Verified tokens, per worker.', default: '64MiB' }),
  }),
  labels: labels({ why: 'Added to every decision event.', default: {} }),
})

type Written = Static<typeof schema>
type WrittenIssuer = Written['issuers'][number]
type WrittenRoute = Written['routes'][number]

export type IssuerConfig = Readonly<WrittenIssuer>
/** The entrypoint is filled in from `policy.decision`. */
export type RouteConfig = Readonly<WrittenRoute> & { readonly decision: string }

/** The configuration as the rooms see it: checked, complete, in ms and bytes, paths absolute. */
export interface GateConfig extends Readonly<Omit<Written, 'routes' | 'decision_log'>> {
  readonly routes: readonly RouteConfig[]
  readonly decision_log: { readonly sink: 'stdout' } | { readonly file: string }
}
