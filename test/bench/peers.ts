/** The peers of the same run: nginx as a plain proxy, and nginx that asks an `opa` server. Undefined where not found. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { findOpa } from '../../src/bundle/opa.ts'
import { until } from '../harness/wait.ts'
import { issuer, jwks, rego, roles } from './caller.ts'
import { freePort } from './machine.ts'

export interface Peer {
  readonly port: number
  readonly children: readonly ChildProcess[]
}

export const nginxVersion = (): string | undefined => {
  const found = spawnSync('nginx', ['-v'], { encoding: 'utf8' })
  return found.status === 0 ? /nginx\/(\S+)/.exec(found.stderr)?.[1] : undefined
}

/** @param ask nginx configuration of `location /` beside the proxying, and further locations. */
async function nginx(
  folder: string,
  name: string,
  upstream: number,
  ask: { inside: string; beside: string; servers: string },
): Promise<Peer> {
  const port = await freePort()
  const prefix = join(folder, name)
  mkdirSync(prefix, { recursive: true })
  writeFileSync(
    join(prefix, 'nginx.conf'),
    `worker_processes 2; pid nginx.pid; error_log error.log; daemon off; user root;
events { worker_connections 4096; }
http {
  access_log off; client_max_body_size 0; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
  keepalive_requests 1000000000; keepalive_timeout 1h;
  upstream up { server 127.0.0.1:${upstream}; keepalive 128; keepalive_requests 1000000000; }
  ${ask.servers}
  proxy_http_version 1.1; proxy_set_header Connection "";
  server { listen 127.0.0.1:${port};
    location / { ${ask.inside} proxy_pass http://up; }
    ${ask.beside}
  }
}`,
  )
  const child = spawn('nginx', ['-p', prefix, '-c', 'nginx.conf'], { stdio: 'ignore' })
  await until('nginx listens', () => listens(port))
  return { port, children: [child] }
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' })
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

export function plainProxy(folder: string, upstream: number): Promise<Peer> {
  return nginx(folder, 'plain', upstream, { inside: '', beside: '', servers: '' })
}

const findsPath =
  'path := split(trim_prefix(input.attributes.request.http.path, "/"), "/")\n\ntoken := trim_prefix(input.attributes.request.http.headers.authorization, "Bearer ")'
/** The policy for a server that is asked: it finds path and claims itself, and believes the token. */
export const decoding = `${rego}\nclaims := io.jwt.decode(token)[1]\n\n${findsPath}\n`
/** The same, but it verifies the token. */
export const verifying = `${rego}\nclaims := payload if {\n\t[valid, _, payload] := io.jwt.decode_verify(token, {"cert": data.jwks, "iss": "${issuer}", "aud": "api"})\n\tvalid\n}\n\n${findsPath}\n`

/** @param policy `decoding` or `verifying`. */
export async function askingProxy(folder: string, upstream: number, policy: string): Promise<Peer> {
  const port = await freePort()
  const home = join(folder, 'opa')
  mkdirSync(home, { recursive: true })
  writeFileSync(join(home, 'policy.rego'), policy)
  writeFileSync(join(home, 'data.json'), JSON.stringify({ roles, jwks: JSON.stringify(jwks) }))
  const opa = spawn(
    findOpa(process.cwd()),
    ['run', '--server', '--log-level=error', `--addr=127.0.0.1:${port}`, '--bundle', home],
    { stdio: 'ignore' },
  )
  await until('opa is healthy', () =>
    fetch(`http://127.0.0.1:${port}/health`).then(
      ({ ok }) => ok,
      () => false,
    ),
  )
  const proxy = await nginx(folder, 'asking', upstream, {
    inside: 'auth_request /_ask;',
    servers: `upstream opa { server 127.0.0.1:${port}; keepalive 128; keepalive_requests 1000000000; }`,
    beside: `location = /_ask { internal; proxy_method POST; proxy_pass_request_body off; proxy_set_header Content-Type application/json;
      proxy_set_header Authorization "";
      proxy_set_body '{"attributes":{"request":{"http":{"method":"$request_method","path":"$request_uri","headers":{"authorization":"$http_authorization"}}}}}';
      proxy_pass http://opa/v0/data/gate/authz/allow; }`,
  })
  return { port: proxy.port, children: [opa, ...proxy.children] }
}
