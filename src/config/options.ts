/**
 * Room: config. In: the configuration file. Out: the complete, checked configuration. Never does: change it while the
 * gate runs; a reload makes a new one.
 *
 * This file is the table of all options: type, unit, default and reason of each. The types below, the check of a file
 * (load.ts), the JSON Schema for editors (`dropgate.schema.json`) and docs/reference/configuration.md (schema.ts) are made from
 * it. An option with a unit is a text in the file (`5s`, `16KiB`) and a number (ms, bytes) in the program.
 */
import { davMethods, methods, tokenCharacters } from '../domain/http.ts'
import { signatureAlgorithms } from '../domain/signature-algorithms.ts'
import {
  choice,
  duration,
  flag,
  group,
  labels,
  path,
  pem,
  size,
  text,
  texts,
  whole,
} from './option-kinds.ts'
import { presetNames } from './presets.ts'
import { listOf, optional, shape, type ValueOf } from './shape.ts'

const cidr = '^[0-9A-Fa-f:.]+(?:/\\d{1,3})?$'
const origin = '^(?:\\*|null|[a-z][a-z0-9+.-]*://[^/?#@\\s]+)$'
const guid = '^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
const headerName = '^[0-9A-Za-z-]+$'
const pointer = '^(?:/[^/]*)+$'
const entrypoint = '^[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*$'

/** An option that says where in a token a value is found. */
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
      cert: pem({
        why: 'PEM file with the certificate and its chain. With it the port accepts only TLS, version 1.2 or newer.',
      }),
      key: pem({ why: 'PEM file with the private key of `cert`.' }),
      client_ca: optional(
        pem({
          why: 'PEM file with the certificate authorities of client certificates. With it, clients are asked for a certificate.',
        }),
      ),
      client_cert: choice(['required', 'optional'], {
        why: '`optional` also accepts clients without a certificate. A certificate that does not verify is always refused.',
        default: 'required',
      }),
    }),
  ),
  trusted_proxies: optional(
    texts(
      {
        why: 'Networks of trusted reverse proxies: client addresses are taken from their headers. Empty by default; private networks are not trusted implicitly.',
      },
      'networks such as 10.1.0.0/16',
      cidr,
    ),
  ),
  client_header: choice(['x-forwarded-for', 'forwarded'], {
    why: 'Header in which trusted proxies pass on the client address; each proxy appends the address of its own client. The gate removes the other one of `x-forwarded-for` and `forwarded` without reading it.',
    default: 'x-forwarded-for',
  }),
  client_cert_form: choice(['none', 'client-cert', 'nginx', 'xfcc', 'aws', 'aws-passthrough'], {
    why: 'How trusted proxies pass on the client certificate: `client-cert` (RFC 9440), `nginx` (`$ssl_client_escaped_cert`), `xfcc` (Envoy), `aws` and `aws-passthrough` (Application Load Balancer). The certificate of the proxy itself then does not count. The headers of all forms are removed, from whomever they come. See docs/bound-tokens.md.',
    default: 'none',
  }),
  client_cert_header: optional(
    text(
      {
        why: 'Name of the header with the client certificate where `client_cert_form` is `nginx`; `x-ssl-client-cert` when absent.',
      },
      'a header name that begins with X- or SSL-',
      '^(?:[Xx]|[Ss][Ss][Ll])-[0-9A-Za-z-]+$',
    ),
  ),
  proxy_protocol: choice(['none', 'required'], {
    why: 'With `required` each connection must begin with a PROXY protocol header (version 1 or 2) and come from `trusted_proxies`. Where it names no client (`UNKNOWN`, `LOCAL`), no header about the client is believed.',
    default: 'none',
  }),
  takeover: flag({
    why: 'Lets a second gate share the port, for rolling restarts. Without it, a second gate on the same port fails to start.',
    default: false,
  }),
})

/** How the metadata and the keys of an issuer are fetched. */
const fetch = group({
  tls: optional(
    group({
      ca: optional(
        pem({
          why: "PEM file with the certificate authorities for this issuer, instead of those of the system. The server's certificate is always verified.",
        }),
      ),
    }),
  ),
  headers: optional(
    labels({
      why: 'Headers sent with these requests, to the origin of `jwks_uri` (without it: of `issuer`) and to no other. The values are secret: no log has them. Take them from `${NAME}`.',
    }),
  ),
  token_file: optional(
    path({
      why: 'File with a bearer token that is sent as `authorization`, to the same origin. It is read for each request, so it may be renewed.',
    }),
  ),
  proxy: optional(
    text(
      {
        why: 'Proxy through which these requests go, by CONNECT. With a user and password it is secret: take it from `${NAME}`. The variables HTTP_PROXY and HTTPS_PROXY are not read.',
      },
      'a proxy such as http://proxy.internal:3128',
      '^https?://[^/?#\\s]+/?$',
    ),
  ),
  http_networks: optional(
    texts(
      {
        why: 'Networks in which the metadata and the keys may be fetched over plain http. The name must resolve to addresses in these networks alone, looked up for each connection.',
      },
      'networks such as 10.1.0.0/16',
      cidr,
    ),
  ),
})

const issuer = group({
  issuer: text({
    why: 'Issuer name; a token belongs to this issuer if its `iss` claim is exactly the same text. `{tenantid}` stands for each of `tenants`.',
  }),
  tenants: optional(
    shape<'any' | readonly string[]>({
      anyOf: [
        { const: 'any' },
        { type: 'array', minItems: 1, uniqueItems: true, items: { type: 'string', pattern: guid } },
      ],
      'x-expected':
        'any, or a list of tenant ids in lower case such as [9122040d-6c67-4c5b-b112-36a304b66dad]',
      description:
        'Tenants whose tokens are accepted, for an issuer with `{tenantid}` (Entra): ids as claim `tid` has them. `any` accepts every organisation that Entra has: only for a policy that checks the tenant.',
    }),
  ),
  audience: texts(
    {
      why: "Accepted audiences; the `aud` claim of a token must name one of them. `none` accepts tokens for every audience: a token that was made for another service of this issuer's then works here too.",
    },
    'at least one audience name, such as [api]',
  ),
  algorithms: texts(
    {
      why: 'Accepted signature algorithms. Symmetric algorithms are not supported.',
      default: ['ES256', 'RS256', 'EdDSA'],
    },
    `some of ${signatureAlgorithms.join(', ')} (symmetric ones such as HS256 are not supported)`,
    `^(?:${signatureAlgorithms.join('|')})$`,
  ),
  from: texts(
    {
      why: 'Where a request may carry a token of this issuer. A request with two tokens is refused. A cookie needs `routes[].origins`; `websocket-protocol` means a WebSocket subprotocol `bearer.TOKEN`; `header:NAME` is read from `trusted_proxies` only.',
      default: ['authorization'],
    },
    'authorization, cookie:NAME, header:NAME or websocket-protocol',
    `^(?:authorization|websocket-protocol|cookie:[${tokenCharacters}]+|header:[0-9A-Za-z-]+)$`,
  ),
  jwks_uri: optional(
    text({
      why: 'URL of the signing keys: https, or http on loopback and in `fetch.http_networks`. Without it and without `jwks_file`, the gate finds the URL by OpenID Connect discovery, or by RFC 8414 where that is not there.',
    }),
  ),
  jwks_file: optional(
    path({
      why: 'File with the signing keys, instead of a URL; it is read again every `keys_refresh`.',
    }),
  ),
  fetch,
  preset: optional(
    choice(presetNames, {
      why: "Fills in `claims`, `token_types` and the like as this provider's tokens need them; see docs/providers.md.",
    }),
  ),
  claims: group({
    subject: claim('the subject', '/sub'),
    audience: claim('the audience, a text or a list of texts', '/aud'),
    token: claim('the token id', '/jti'),
    session: claim('the session id', '/sid'),
    tenant: optional(claim('the tenant')),
    groups: optional(claim('the groups, a list of texts or one text')),
    device: optional(claim('the device')),
    client: optional(
      claim(
        'the client; when absent, the first of `client_id`, `azp` and `appid` in the token is used',
      ),
    ),
    scopes: optional(
      claim('the scopes; when absent, the first of `scope` and `scp` in the token is used'),
    ),
  }),
  token_types: choice(['at+jwt', 'any', 'id'], {
    why: 'Accepted `typ` of a token: `at+jwt` accepts access tokens of RFC 9068 only; `any` also accepts `JWT` or no `typ`; `id` accepts ID tokens too, for issuers that have no other tokens for a service. Logout and event tokens are always refused.',
    default: 'at+jwt',
  }),
  access_token_nonce: choice(['refuse', 'allow'], {
    why: "What a `nonce` tells where `token_types` is `any`: `refuse` takes a token with a `nonce`, and with neither scopes nor a kind (`token_use`, Keycloak's `typ`), for an ID token. `allow` is for issuers that write a `nonce` into access tokens; their ID tokens are then known by `at_hash`, `c_hash` or their kind.",
    default: 'refuse',
  }),
  max_token_lifetime: duration({
    why: 'Tokens with a longer `exp - iat` are refused, so that no revocation has to be kept longer than this.',
    default: '24h',
    compared: true,
  }),
  clock_skew: duration({
    why: 'How far the clock of the issuer may differ from that of the gate; 0s for not at all.',
    default: '5s',
    zero: 'nothing',
    compared: true,
  }),
  boundary: choice(['inclusive', 'exclusive'], {
    why: 'A revocation by issue time also revokes tokens issued in the same second (`inclusive`), or leaves those valid (`exclusive`).',
    default: 'inclusive',
  }),
  keys_refresh: duration({
    why: 'How often the gate fetches the keys in the background; sooner where `cache-control` of the answer says so, but no sooner than `keys_cooldown`.',
    default: '5m',
  }),
  keys_cooldown: duration({
    why: 'A token with an unknown key makes the gate fetch the keys at once, but not sooner than this after the last such fetch, or after a failed one; 0s for no pause.',
    default: '30s',
    zero: 'nothing',
  }),
  keys_max_stale: duration({
    why: 'How long the last fetched keys are used while the issuer cannot be reached.',
    default: '24h',
    compared: true,
  }),
})

const route = group({
  name: text({ why: 'Name of the route in logs, metrics and `input.route`.' }),
  host: optional(
    text({
      why: 'Host name without port: `api.example.com` or `*.example.com`. A route without `host` serves every host that no other route names.',
    }),
  ),
  path: text(
    {
      why: 'Path prefix, compared by whole segments, or `=/path` for exactly that path. The route with the longest match serves the request.',
      default: '/',
    },
    'a path prefix that begins with /, or =/path for exactly that path, and no regular expression',
    '^=?/',
  ),
  upstream: text(
    {
      why: 'Origin to which allowed requests are sent, or `unix:/path` for a Unix socket, on which plain HTTP is spoken.',
    },
    'an origin such as http://127.0.0.1:9001, without a path (base_path sets one), user or password; or unix:/run/app.sock',
    '^(?:https?://[^/?#@]+/?|unix:/[^?#]+)$',
  ),
  strip_prefix: flag({
    why: 'Cuts `path` off before the request is sent: `/app/users` of a route with `path: /app` goes to the upstream as `/users`, with `/app` in `X-Forwarded-Prefix`. The policy sees both (`input.sent_target`). `Location` and cookie paths of the upstream are changed back.',
    default: false,
  }),
  base_path: optional(
    text(
      {
        why: 'Path that is put in front before the request is sent, after `strip_prefix`. `Location` and cookie paths of the upstream are changed back.',
      },
      'a path that begins with / and does not end with it, such as /v1',
      '^/.*[^/]$',
    ),
  ),
  methods: optional(
    texts(
      {
        why: `Accepted request methods; ${methods.join(', ')} when absent. Methods of WebDAV are accepted only where they are listed. COPY and MOVE write to another path, their header \`destination\`: it must be served by the same route, no other route may begin below either path, and the policy has to look at it.`,
      },
      `some of ${[...methods, ...davMethods].join(', ')}`,
      `^(?:${[...methods, ...davMethods].join('|')})$`,
    ),
  ),
  auth: choice(['required', 'optional', 'none'], {
    why: 'With `optional`, requests without a token reach the policy as anonymous ones, and every token is verified as with `required`: a bad one is refused. With `none`, no token is read.',
    default: 'required',
  }),
  dpop_nonce: choice(['none', 'required'], {
    why: 'With `required`, the DPoP proof of a token that is bound to a key must carry a nonce of this gate, which each answer to such a client renews.',
    default: 'none',
  }),
  origins: optional(
    texts(
      {
        why: 'Origins of the web pages that may open WebSockets on this route, or use a token that browsers add by themselves: in a cookie, or in the header of a proxy (`header:NAME`). Compared exactly with `Origin`; where a browser hides it (`null`), pages of the host that is asked count if `Sec-Fetch-Site` is `same-origin`. Required if an issuer takes tokens from a cookie.',
      },
      'origins such as https://app.example.com',
      '^[a-z][a-z0-9+.-]*://[^/?#@\\s]+$',
    ),
  ),
  audience: optional(
    texts(
      { why: 'Accepted audiences on this route, instead of those of the issuer.' },
      'at least one audience name, such as [api]',
    ),
  ),
  decision: optional(
    text(
      {
        why: 'Entrypoint of the policy that decides on this route; `policy.decision` when absent.',
      },
      'an entrypoint such as gate/authz/decision',
      entrypoint,
    ),
  ),
  stale: choice(['deny', 'allow'], {
    why: 'What the gate does when it cannot prove that its revocations are up to date: deny, or allow until `revocation.hard_stop`.',
    default: 'deny',
  }),
  on_expiry: choice(['cut', 'let-finish'], {
    why: 'What happens to an open exchange when its token expires.',
    default: 'cut',
  }),
  limits: group({
    idle: duration({
      why: 'An exchange without any byte in either direction for this long is cut; 0s for no limit.',
      default: '1h',
      zero: 'no limit',
      compared: true,
    }),
    age: duration({
      why: 'An exchange is cut when it has been open for this long; 0s for no limit.',
      default: '0s',
      zero: 'no limit',
      compared: true,
    }),
    bytes: size({
      why: 'An exchange is cut after this many bytes, both directions together; 0B for no limit.',
      default: '0B',
      zero: 'no limit',
    }),
  }),
  labels: labels({
    why: 'Names and values that the policy sees as `input.route.labels`.',
    default: {},
  }),
  timeouts: group({
    connect: duration({
      why: 'Longest time until a connection to the upstream is open; 0s for no limit.',
      default: '2s',
      zero: 'no limit',
    }),
    headers: duration({
      why: 'Longest time from the moment at which all of the request has gone out to the headers of the response. Interim answers (102, 103) do not extend it. 0s for no limit.',
      default: '30s',
      zero: 'no limit',
    }),
    idle: duration({
      why: 'Longest time in which the upstream neither takes a piece of the request body nor sends a piece of the response body; 0s for no limit.',
      default: '60s',
      zero: 'no limit',
    }),
  }),
  forward: group({
    authorization: choice(['strip', 'keep'], {
      why: 'With `keep` the upstream gets the token of the caller, with `strip` it does not. An `Authorization` that the gate does not read (with `auth: none`, or Basic beside a token in a cookie) belongs to the app and is always forwarded.',
      default: 'strip',
    }),
    identity: choice(['headers', 'none'], {
      why: 'With `headers` the upstream gets the identity of the caller in `x-dropgate-*` headers.',
      default: 'headers',
    }),
    host: text(
      {
        why: "`Host` that the upstream gets: the client's own (`keep`), that of the URL in `upstream` (`upstream`), or this name. `X-Forwarded-Host` is always the client's own.",
        default: 'keep',
      },
      'keep, upstream, or a name such as app.internal',
      '^[0-9A-Za-z._:\\[\\]-]+$',
    ),
    remove: optional(
      texts(
        {
          why: 'Request headers of clients that are never forwarded. List the headers that the policy sets: when it does not set one, a client must not be able to send its own.',
        },
        'header names',
        headerName,
      ),
    ),
    pass: optional(
      texts(
        {
          why: 'Headers that other proxies use to name the caller, and that this route takes from clients all the same: where the app uses such a name for something else. docs/reference/removed-headers.md lists them.',
        },
        'header names',
        headerName,
      ),
    ),
  }),
  cors: optional(
    group({
      origins: texts(
        {
          why: 'Origins whose web pages may read responses, compared exactly; `*` for every origin.',
        },
        'origins such as https://app.example.com, or *',
        origin,
      ),
      methods: optional(
        texts(
          { why: 'Methods that these pages may use; the methods of the route when absent.' },
          `some of ${methods.join(', ')}`,
          `^(?:${methods.join('|')})$`,
        ),
      ),
      headers: optional(
        texts({ why: 'Request headers that these pages may set.' }, 'header names', headerName),
      ),
      expose: optional(
        texts({ why: 'Response headers that these pages may read.' }, 'header names', headerName),
      ),
      credentials: flag({
        why: 'Allows these pages to send cookies; not possible with the origin `*`.',
        default: false,
      }),
      max_age: duration({
        why: 'How long a browser may remember the answer to a preflight request. 0s for not at all.',
        default: '10m',
        zero: 'nothing',
        compared: true,
      }),
    }),
  ),
  tls: optional(
    group({
      ca: optional(
        pem({
          why: "PEM file with the certificate authorities for this upstream, instead of those of the system. The upstream's certificate is always verified.",
        }),
      ),
      cert: optional(
        pem({ why: 'PEM file with the client certificate that the gate shows to the upstream.' }),
      ),
      key: optional(pem({ why: 'PEM file with the private key of `cert`.' })),
      server_name: optional(
        text({
          why: 'Name sent to the upstream (SNI) and expected in its certificate; the name in `upstream` when absent.',
        }),
      ),
    }),
  ),
  preflight: choice(['refuse', 'pass'], {
    why: 'With `pass` a cross-origin preflight request without a credential is anonymous, whatever `auth` and `methods` say: the policy decides on it, and with its allow the upstream answers it. For applications with cross-origin rules of their own; not beside `cors`.',
    default: 'refuse',
  }),
  repeated_headers: choice(['refuse', 'join'], {
    why: 'What happens to a repeated request header that is not a list: refuse the request, or join the values.',
    default: 'refuse',
  }),
  encoded_slashes: choice(['refuse', 'pass'], {
    why: '`pass` allows `%2F` and `%25` in a path; they never split a segment.',
    default: 'refuse',
  }),
  matrix_parameters: choice(['refuse', 'pass'], {
    why: '`pass` allows `;` and `%3B` in a path; the policy sees each segment without its parameters.',
    default: 'refuse',
  }),
  empty_segments: choice(['refuse', 'merge', 'pass'], {
    why: 'What happens to `//` in a path: `merge` makes it one slash before the decision, and sends that; `pass` sends it as it is, and the policy sees empty segments. The route is always found by the merged path. `pass` is for upstreams that tell `/a//b` from `/a/b`; it accepts no `//` at the beginning.',
    default: 'refuse',
  }),
  stray_percent: choice(['refuse', 'encode'], {
    why: '`encode` accepts a `%` in a query that two hexadecimal digits do not follow: `%25` is decided on and sent.',
    default: 'refuse',
  }),
  non_ascii_headers: choice(['refuse', 'pass'], {
    why: '`pass` accepts bytes above 0x7F in headers that the gate does not read itself. The policy sees UTF-8 decoded, and other bytes as characters of ISO 8859-1; the upstream gets the bytes as they came. In `cookie`, UTF-8 is always accepted.',
    default: 'refuse',
  }),
  policy_body: choice(['read', 'withhold'], {
    why: '`read` gives request bodies to a policy that reads them; `withhold` streams them to the upstream unread (`truncated_body` is true).',
    default: 'read',
  }),
  max_websockets: whole(
    {
      why: 'Most open WebSockets to this upstream, per worker; further ones get 503.',
      default: 10000,
    },
    1,
    1000000,
  ),
  max_streams: whole(
    {
      why: 'Most open event streams and other answers that last longer than 10 s, from this upstream, per worker. They do not count into `max_connections`. Further event streams get 503; other answers then keep counting as requests.',
      default: 10000,
    },
    1,
    1000000,
  ),
  max_connection_age: duration({
    why: 'A connection to the upstream carries no further request after this time, so that a changed address of its name is followed. What is open on it is not cut. 0s for no limit.',
    default: '5m',
    zero: 'no limit',
  }),
  max_connections: whole(
    {
      why: 'Most concurrent requests to this upstream, per worker, without streams and WebSockets; further ones get 503.',
      default: 256,
    },
    1,
    10000,
  ),
})

/** Default of `state_dir`. */
export const stateDir = '.dropgate'

export const schema = group({
  state_dir: path({
    why: 'Folder for what the gate itself writes: the admin token, and what `database: embedded` stores. Everything else that it reads may be read-only.',
    default: stateDir,
  }),
  listen: listOf(listen, {
    'x-expected': 'a mapping with host and port, or a list of such mappings',
    minItems: 1,
  }),
  admin: group({
    host: text({ why: 'Address of the admin port.', default: '127.0.0.1' }),
    hosts: optional(
      texts(
        {
          why: 'Names under which the admin port is asked, as in `Host`, beside addresses, `admin.host`, names without a dot and those under `localhost`, `local`, `internal` and `svc`. Every other one gets 421, so that no web page reads this port through the browser of an operator.',
        },
        'host names in lower case, such as gate-1.example.com',
        '^[a-z0-9_-]+(?:\\.[a-z0-9_-]+)*$',
      ),
    ),
    port: whole({ why: 'Port for operators; 0 lets the system choose.', default: 8081 }, 0, 65535),
    token_file: optional(
      path({
        why: 'File with the bearer token of the admin port; `admin.token` in `state_dir` when absent. If the file is missing, the gate creates it with mode 0600.',
      }),
    ),
    metrics_open: flag({
      why: 'Opens /metrics to requests without the bearer token.',
      default: false,
    }),
  }),
  database: group(
    {
      url: optional(
        text(
          { why: 'URL of the database with the login of the gate.' },
          'a URL such as postgres://gate:password@host:5432/database',
          '^postgres(?:ql)?://',
        ),
      ),
      cli_url: optional(
        text(
          {
            why: 'URL of the database with the login of commands such as `dropgate revoke`; `url` when absent.',
          },
          'a postgres:// URL',
          '^postgres(?:ql)?://',
        ),
      ),
      migrate_url: optional(
        text(
          { why: 'URL of the database with the login of `dropgate migrate`; `url` when absent.' },
          'a postgres:// URL',
          '^postgres(?:ql)?://',
        ),
      ),
      breakglass_url: optional(
        text(
          {
            why: 'URL of the database with the break-glass login, which `--breakglass` chooses in `revoke`, `lift` and `sql`. It may write rows that hit everyone, a whole issuer or a large network.',
          },
          'a postgres:// URL',
          '^postgres(?:ql)?://',
        ),
      ),
      embedded: optional(
        path({
          why: 'Folder of a PostgreSQL that the gate runs itself, instead of `url`. `database: embedded` is short for `postgres` in `state_dir`.',
        }),
      ),
      schema: text(
        { why: 'Database schema that holds the tables.', default: 'dropgate' },
        'a plain name',
        '^[a-z_][a-z0-9_]{0,50}$',
      ),
      role_prefix: text(
        { why: 'Prefix of the names of the database group roles.', default: 'dropgate_' },
        'a plain name',
        '^[a-z_][a-z0-9_]{0,40}$',
      ),
    },
    '`embedded`, or a mapping with url',
  ),
  issuers: listOf(issuer, { default: [], 'x-expected': 'a list of issuers' }),
  policy: group({
    bundles: path({
      why: 'Folder in which the gate looks for a bundle (`*.tar.gz`) and watches for changes.',
      default: 'bundles',
    }),
    decision: text(
      { why: 'Entrypoint of the policy that decides.', default: 'gate/authz/decision' },
      'an entrypoint such as gate/authz/decision',
      entrypoint,
    ),
    evaluation_timeout: duration({
      why: 'Longest evaluation of the policy, in CPU time of a worker; the request is then answered 503. A caller to whom it happens has less time for a minute: first an eighth, then a thirty-second. A worker that evaluates for 1.3 s is replaced, whatever the limit.',
      default: '25ms',
    }),
    vet_timeout: duration({
      why: 'Deadline for the trial run of a new bundle. Reading its data has another: 10 s and 1 s for each MiB.',
      default: '5s',
    }),
    settle: duration({
      why: 'How long a bundle file must stay unchanged before it is read; 0s for no wait.',
      default: '100ms',
      zero: 'nothing',
    }),
    max_memory: size({
      why: 'Most memory of one policy instance: about 2 to 4 bytes for each byte of its data, and what an evaluation needs. Each worker has one, and for a moment two when another bundle is activated.',
      default: '256MiB',
    }),
    max_bundle: size({ why: 'Largest bundle file.', default: '64MiB' }),
    max_unpacked: size({ why: 'Largest total size of the unpacked bundle.', default: '256MiB' }),
  }),
  revocation: group({
    max_staleness: duration({
      why: 'If the gate cannot prove for this long that its revocations are up to date, routes with `stale: deny` answer 503.',
      default: '5s',
    }),
    cut_after: duration({
      why: 'After this long without proof, open exchanges on routes with `stale: deny` are cut as well.',
      default: '30s',
      compared: true,
    }),
    hard_stop: duration({
      why: 'After this long without proof, every route answers 503 and all open exchanges are cut.',
      default: '15m',
      compared: true,
    }),
    tick: duration({
      why: 'How often the gate proves that its revocations are up to date; new revocations are announced at once and do not wait for it.',
      default: '500ms',
    }),
    purge: duration({
      why: 'How often one of the gates deletes revocations that can no longer match any token; 0s for never.',
      default: '1h',
      zero: 'never',
    }),
    canary: duration({
      why: 'How often one of the gates writes a revocation that hits no token, so that every gate can tell how fast revocations come into force; 0s: this gate writes none.',
      default: '60s',
      zero: 'never',
    }),
    pepper_file: optional(
      path({
        why: 'File with the secrets for token hashes, one per line, newest first. Mode 0600; the same on every gate.',
      }),
    ),
    snapshot_file: optional(
      path({
        why: 'File in which the gate keeps a copy of all revocations, so that a restart fetches only the changes from the database. Each gate needs its own; worth it from about a million rows.',
      }),
    ),
    verify: duration({
      why: 'How often the gate compares all revocations in memory with the database, in the background; 0s for never.',
      default: '10m',
      zero: 'never',
    }),
    spare: whole(
      {
        why: 'Free room in memory for this many revocations beyond those loaded at the start. When it is full, the gate makes more room while it serves.',
        default: 100000,
      },
      1000,
      100000000,
    ),
  }),
  decision_log: group({
    sink: optional(
      choice(['stdout'], {
        why: '`stdout` writes decision events to standard output, one JSON object per line.',
      }),
    ),
    file: optional(
      path({ why: 'File to which decision events are appended, instead of standard output.' }),
    ),
  }),
  routes: listOf(route, { minItems: 1, 'x-expected': 'a list of routes' }),
  upstream_networks: group({
    deny: texts(
      {
        why: 'Network addresses that no upstream may have, checked each time the gate resolves a name and connects. No name other than `localhost` may resolve to this machine.',
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
  workers: shape<number>({
    anyOf: [{ const: 'auto' }, { type: 'integer', minimum: 1, maximum: 256 }],
    'x-unit': 'workers',
    'x-expected': 'auto or a whole number from 1 to 256',
    description: 'Number of threads that serve requests; `auto` is one per CPU.',
    default: 'auto',
  }),
  drain_timeout: duration({
    why: 'How long a stopping gate waits for open exchanges to end. For at most half of this time it still accepts new connections, until no more requests come. With 0s all are cut at once.',
    default: '30s',
    zero: 'nothing',
  }),
  limits: group({
    header_bytes: size({ why: 'Largest total size of the request headers.', default: '24KiB' }),
    headers: whole({ why: 'Most headers in a request.', default: 100 }, 1, 1000),
    header_value_bytes: size({
      why: 'Largest value of one request header. A token of Entra with 200 groups takes 12.5 kB.',
      default: '16KiB',
    }),
    cookies: whole({ why: 'Most cookies in a request.', default: 64 }, 0, 1000),
    target_bytes: size({ why: 'Largest request target (path and query).', default: '8KiB' }),
    body_bytes: size({
      why: 'Largest request body; 0B for no limit.',
      default: '0B',
      zero: 'no limit',
    }),
    policy_body: size({
      why: 'Largest request body on routes whose policy reads bodies; the gate reads it whole before the decision.',
      default: '64KiB',
    }),
    policy_body_timeout: duration({
      why: 'Longest time until a body that the policy reads is complete; 0s for no limit.',
      default: '10s',
      zero: 'no limit',
    }),
    header_timeout: duration({
      why: 'Longest time until the request headers are complete, and a TLS handshake.',
      default: '10s',
    }),
    request_timeout: duration({
      why: 'Longest time until the request body is complete; 0s for no limit.',
      default: '0s',
      zero: 'no limit',
    }),
    body_idle: duration({
      why: 'Longest time between two pieces of a request body that the upstream is waiting for; 0s for no limit.',
      default: '30s',
      zero: 'no limit',
    }),
    read_idle: duration({
      why: 'How long a client may leave response data unread; 0s for no limit.',
      default: '60s',
      zero: 'no limit',
    }),
    connections: whole({ why: 'Most client connections, per worker.', default: 10000 }, 1, 1000000),
    requests: whole(
      { why: 'Most concurrent requests, per worker; further ones get 503.', default: 10000 },
      1,
      1000000,
    ),
    max_lag: duration({
      why: 'A worker that is late by this much answers 503 to further requests until it has caught up. Late means: its event loop, or the policy evaluations in one turn of it, took this much CPU time.',
      default: '500ms',
    }),
    token_cache: size({
      why: 'Memory for the cache of verified tokens, per worker.',
      default: '64MiB',
    }),
    known_signatures: size({
      why: 'Memory in which all workers together remember the signatures that were checked, 32 bytes for each token, so that a token costs one check.',
      default: '32MiB',
    }),
    dpop_proofs: size({
      why: 'Memory in which all workers together remember the DPoP proofs that were used, 8 bytes for each. The default is enough for 5,000 requests/s with proofs that may be 60 s old; when it is full, such requests get 503.',
      default: '4MiB',
    }),
    dpop_proof_age: duration({
      why: 'Oldest DPoP proof that is accepted, by its `iat`. A proof may be ahead of the gate by `issuers[].clock_skew`.',
      default: '60s',
    }),
  }),
  labels: labels({ why: 'Names and values that are added to every decision event.', default: {} }),
})

type ConfigShape = ValueOf<typeof schema>
type IssuerShape = ConfigShape['issuers'][number]
type RouteShape = ConfigShape['routes'][number]

export type IssuerConfig = Readonly<IssuerShape>
/** A route; if it names no entrypoint, `decision` is that of `policy.decision`. */
export type RouteConfig = Readonly<RouteShape> & { readonly decision: string }

/** The configuration as the program uses it: checked and complete, durations in ms, sizes in bytes, paths absolute. */
export interface GateConfig
  extends Readonly<Omit<ConfigShape, 'routes' | 'decision_log' | 'admin'>> {
  readonly admin: Readonly<ConfigShape['admin']> & { readonly token_file: string }
  readonly routes: readonly RouteConfig[]
  readonly decision_log: { readonly sink: 'stdout' } | { readonly file: string }
}
