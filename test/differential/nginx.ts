/** nginx: as a file server, by its locations, and in front of an application to which it hands the path it has read. */
import { freePort } from '../bench/machine.ts'
import { startNode } from './node.ts'
import { find, run, type StartServers } from './server.ts'

export const startNginx: StartServers = async (tree) => {
  const nginx = find('nginx')
  if (nginx === undefined) return undefined
  const [files, locations, handed] = [await freePort(), await freePort(), await freePort()]
  const nodes = (await startNode(tree))!
  const config = tree.write(
    'nginx.conf',
    `daemon off; master_process off; pid ${tree.folder}/nginx.pid; error_log ${tree.folder}/nginx.log;
events {}
http {
  access_log off; default_type text/plain; root ${tree.root};
  client_body_temp_path ${tree.folder}/nginx-body; proxy_temp_path ${tree.folder}/nginx-proxy;
  fastcgi_temp_path ${tree.folder}/nginx-f; uwsgi_temp_path ${tree.folder}/nginx-u; scgi_temp_path ${tree.folder}/nginx-s;
  server { listen 127.0.0.1:${files}; index index.html; }
  server {
    listen 127.0.0.1:${locations}; merge_slashes off;
    location / { return 200 "resource:$uri"; }
    location /secret { return 200 "resource:$uri"; }
  }
  server {
    listen 127.0.0.1:${handed};
    location / { proxy_pass ${nodes[3]!.origin}/; }
  }
}
`,
  )
  const servers = await run(
    nginx,
    ['-c', config, '-e', `${tree.folder}/nginx.log`],
    [
      { name: 'nginx, files', port: files },
      { name: 'nginx, locations', port: locations },
      { name: 'nginx, handed on decoded', port: handed },
    ],
  )
  const close = async (): Promise<void> => {
    await servers[0]!.close()
    await Promise.all(nodes.map((node) => node.close()))
  }
  return servers.map((server) => ({ ...server, close }))
}
