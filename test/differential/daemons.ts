/** Apache, lighttpd, HAProxy and h2o, each where it is installed. */

import { existsSync } from 'node:fs'
import { freePort } from '../bench/machine.ts'
import { find, run, type StartServers } from './server.ts'

/** `path` is under a denied place when its index answers for what is not there. */
export const startApache: StartServers = async (tree) => {
  const apache = find('apache2', 'httpd')
  const modules = '/usr/lib/apache2/modules'
  if (apache === undefined || !existsSync(modules)) return undefined
  const [plain, slashes, opaque] = [await freePort(), await freePort(), await freePort()]
  const load = ['mpm_event', 'authz_core', 'dir', 'mime']
  const user = process.getuid?.() === 0 ? 'User www-data\nGroup www-data\n' : ''
  const host = (port: number, encoded: string): string => `Listen 127.0.0.1:${port}
<VirtualHost 127.0.0.1:${port}>
  DocumentRoot ${tree.root}
  AllowEncodedSlashes ${encoded}
</VirtualHost>
`
  const config = tree.write(
    'apache.conf',
    `ServerRoot ${tree.folder}
ServerName differential
PidFile ${tree.folder}/apache.pid
ErrorLog ${tree.folder}/apache.log
DefaultRuntimeDir ${tree.folder}
${load.map((name) => `LoadModule ${name}_module ${modules}/mod_${name}.so`).join('\n')}
TypesConfig /dev/null
${user}<Directory ${tree.root}>
  Require all granted
  DirectoryIndex index.html
</Directory>
<Directory ${tree.root}/secret>
  FallbackResource /secret/index.html
</Directory>
<Directory ${tree.root}/public/private>
  FallbackResource /public/private/index.html
</Directory>
${host(plain, 'Off')}${host(slashes, 'On')}${host(opaque, 'NoDecode')}`,
  )
  return await run(
    apache,
    ['-X', '-f', config],
    [
      { name: 'apache2, files', port: plain },
      { name: 'apache2, encoded slashes decoded', port: slashes },
      { name: 'apache2, encoded slashes kept', port: opaque },
    ],
  )
}

export const startLighttpd: StartServers = async (tree) => {
  const lighttpd = find('lighttpd')
  if (lighttpd === undefined) return undefined
  const [plain, bare] = [await freePort(), await freePort()]
  const base = (port: number): string => `server.bind = "127.0.0.1"
server.port = ${port}
server.document-root = "${tree.root}"
server.modules = ("mod_rewrite", "mod_indexfile")
index-file.names = ("index.html")
mimetype.assign = ("" => "text/plain")
url.rewrite-if-not-file = ("^/secret(?:/|$)" => "/secret/index.html", "^/public/private(?:/|$)" => "/public/private/index.html")
`
  const first = tree.write('lighttpd-plain.conf', base(plain))
  const second = tree.write(
    'lighttpd-bare.conf',
    `${base(bare)}server.http-parseopts = ("header-strict" => "disable", "url-normalize" => "disable")\n`,
  )
  return [
    ...(await run(lighttpd, ['-D', '-f', first], [{ name: 'lighttpd, files', port: plain }])),
    ...(await run(
      lighttpd,
      ['-D', '-f', second],
      [{ name: 'lighttpd, not normalising', port: bare }],
    )),
  ]
}

export const startHaproxy: StartServers = async (tree) => {
  const haproxy = find('haproxy')
  if (haproxy === undefined) return undefined
  const [decoded, normalised] = [await freePort(), await freePort()]
  const answer =
    'http-request return status 200 content-type text/plain lf-string "resource:%[path,url_dec]"'
  const config = tree.write(
    'haproxy.cfg',
    `global
  expose-experimental-directives
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend decoded
  bind 127.0.0.1:${decoded}
  ${answer}
frontend normalised
  bind 127.0.0.1:${normalised}
  http-request normalize-uri percent-decode-unreserved
  http-request normalize-uri path-strip-dot
  http-request normalize-uri path-strip-dotdot full
  http-request normalize-uri path-merge-slashes
  ${answer}
`,
  )
  return await run(
    haproxy,
    ['-db', '-f', config],
    [
      { name: 'haproxy, decoded', port: decoded },
      { name: 'haproxy, normalised', port: normalised },
    ],
  )
}

export const startH2o: StartServers = async (tree) => {
  const h2o = find('h2o')
  if (h2o === undefined) return undefined
  const files = await freePort()
  const user = process.getuid?.() === 0 ? 'user: root\n' : ''
  const config = tree.write(
    'h2o.conf',
    `${user}pid-file: ${tree.folder}/h2o.pid
hosts:
  default:
    listen: {host: 127.0.0.1, port: ${files}}
    paths:
      "/":
        file.dir: ${tree.root}
      "/secret":
        file.dir: ${tree.root}/secret
        error-doc: {status: 404, url: /secret/index.html}
      "/public/private":
        file.dir: ${tree.root}/public/private
        error-doc: {status: 404, url: /public/private/index.html}
`,
  )
  return await run(h2o, ['-c', config], [{ name: 'h2o, files', port: files }])
}
