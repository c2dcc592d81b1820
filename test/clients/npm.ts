/** npm: publish, audit and install with a token, at a registry behind the gate. Names of scoped packages have `%2f`. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { gunzipSync } from 'node:zlib'
import { type Client, demand, type Entrance, listen, run, runWell, temporary } from './client.ts'

interface Published {
  readonly name: string
  readonly versions: Record<string, { dist: { tarball: string } }>
  readonly _attachments: Record<string, { data: string }>
}

/** What npm needs of a registry: a document for each package, files, and an audit that finds nothing. */
export function npm(): Client {
  const packages = new Map<string, Published>()
  const audits: object[] = []
  const server = createServer(async (req, res) => {
    const answer = (status: number, body: object | Buffer): void => {
      const json = !Buffer.isBuffer(body)
      res.writeHead(status, { 'content-type': json ? 'application/json' : 'application/octet-stream' })
      res.end(json ? JSON.stringify(body) : body)
    } // biome-ignore format: one line
    const path = decodeURIComponent(req.url!.slice(1))
    const [name = '', file] = path.split('/-/')
    if (path.startsWith('-/npm/v1/security/')) {
      audits.push(await bodyOf(req))
      answer(200, {})
    } else if (req.method === 'PUT') {
      packages.set(name, (await bodyOf(req)) as Published)
      answer(201, { ok: true })
    } else if (file !== undefined) {
      const attachments = Object.values(packages.get(name)?._attachments ?? {})
      const [found] = attachments
      answer(found === undefined ? 404 : 200, Buffer.from(found?.data ?? '', 'base64'))
    } else {
      const { _attachments, ...found } = packages.get(name) ?? {}
      answer(packages.has(name) ? 200 : 404, found)
    }
  })
  return {
    name: 'npm',
    upstream: () => listen(server),
    route: { strip_prefix: true, encoded_slashes: 'pass' },
    run: (entrance) => walk(entrance, audits),
    close: () => server.close(),
  }
}

async function bodyOf(req: IncomingMessage): Promise<object> {
  const bytes = await buffer(req)
  return JSON.parse(
    (req.headers['content-encoding'] === 'gzip' ? gunzipSync(bytes) : bytes).toString(),
  )
}

async function walk(entrance: Entrance, audits: readonly object[]): Promise<string> {
  const folder = temporary()
  const registry = `${entrance.origin}/npm/`
  const project = (name: string, token: string | undefined, manifest: object, code = ''): string => {
    const at = join(folder, name)
    mkdirSync(at)
    const auth = `${registry.slice('http:'.length)}:_authToken=${token}`
    writeFileSync(join(at, '.npmrc'), `registry=${registry}\n${token === undefined ? '' : auth}\n`)
    writeFileSync(join(at, 'package.json'), JSON.stringify(manifest))
    writeFileSync(join(at, 'index.js'), code)
    return at
  } // biome-ignore format: one line
  const token = await entrance.token('alice')
  const env = { npm_config_update_notifier: 'false', npm_config_fetch_retries: '0' }
  const part = project('part', token, { name: 'part', version: '1.0.0' }, "module.exports = 'part'")
  const manifest = { name: '@acme/whole', version: '2.0.0', dependencies: { part: '^1.0.0' } }
  const whole = project('whole', token, manifest, "module.exports = 'whole of ' + require('part')")
  const publish = ['npm', 'publish', '--access', 'public']
  for (const at of [part, whole]) await runWell(publish, at, env)
  const user = { name: 'user', dependencies: { '@acme/whole': '2.0.0' } }
  const at = project('user', token, user)
  await runWell(['npm', 'install', '--no-fund'], at, env)
  const told = await runWell([process.execPath, '-p', "require('@acme/whole')"], at)
  demand(told.trim() === 'whole of part', `the package says ${told}`)
  demand(audits.length > 0 && 'part' in audits[0]!, 'the audit did not arrive')
  const lock = JSON.parse(readFileSync(join(at, 'package-lock.json'), 'utf8'))
  demand(
    lock.packages['node_modules/@acme/whole'].resolved.startsWith(registry),
    'the file did not come through the gate',
  )
  const ended = await run(['npm', 'install'], project('nobody', undefined, user), env)
  demand(ended.status !== 0 && /E401/.test(ended.err), `without a token: ${ended.err}`)
  return 'published two packages, installed the scoped one (%2f) with its dependency, audited (gzip); refused without a token (E401)'
}
