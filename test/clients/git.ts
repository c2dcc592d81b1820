/** git: push, clone and fetch of a repository behind `git http-backend`. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { join } from 'node:path'
import { type Client, demand, type Entrance, listen, run, runWell, temporary } from './client.ts'

const branches = 60

export function git(): Client {
  const root = temporary()
  const seen = { chunked: 0, gzip: 0 }
  const server = createServer((req, res) => {
    if (req.headers['transfer-encoding'] === 'chunked') seen.chunked++
    if (req.headers['content-encoding'] === 'gzip') seen.gzip++
    cgi(root, req, res)
  })
  return {
    name: 'git',
    upstream: () => listen(server),
    route: { strip_prefix: true },
    run: (entrance) => walk(root, entrance, seen),
    close: () => server.close(),
  }
}

/** RFC 3875, as far as git needs it. `receive-pack` is open to callers that have a name: the one that the gate told. */
function cgi(root: string, req: IncomingMessage, res: ServerResponse): void {
  const url = new URL(req.url!, 'http://a')
  const header = (name: string): string => (req.headers[name] as string | undefined) ?? ''
  const child = spawn('git', ['http-backend'], {
    env: {
      PATH: process.env.PATH,
      GIT_PROJECT_ROOT: root,
      GIT_HTTP_EXPORT_ALL: '1',
      REQUEST_METHOD: req.method!,
      PATH_INFO: url.pathname,
      QUERY_STRING: url.search.slice(1),
      CONTENT_TYPE: header('content-type'),
      ...(header('content-length') === '' ? {} : { CONTENT_LENGTH: header('content-length') }),
      HTTP_CONTENT_ENCODING: header('content-encoding'),
      HTTP_GIT_PROTOCOL: header('git-protocol'),
      REMOTE_USER: header('x-dropgate-subject'),
    },
  })
  child.stdin.on('error', () => {})
  req.pipe(child.stdin)
  let head = Buffer.alloc(0)
  const more = (data: Buffer): void => {
    head = Buffer.concat([head, data])
    const end = head.indexOf('\r\n\r\n')
    if (end === -1) return
    for (const line of head.subarray(0, end).toString('latin1').split('\r\n')) {
      const [name = '', value = ''] = line.split(': ', 2)
      if (name === 'Status') res.statusCode = Number(value.slice(0, 3))
      else res.setHeader(name, value)
    }
    child.stdout.off('data', more)
    res.write(head.subarray(end + 4))
    child.stdout.pipe(res)
  }
  child.stdout.on('data', more)
}

/** Commits as `git fast-import` reads them: a large file on main, and a branch for each of many others. */
function history(bytes: Buffer): Buffer {
  const commit = (branch: string, mark: number, more: string): string =>
    `commit refs/heads/${branch}\nmark :${mark}\ncommitter a <a@example.com> ${1e9 + mark} +0000\ndata ${branch.length}\n${branch}\n${more}`
  const begin = `blob\nmark :1\ndata ${bytes.length}\n`
  const others = Array.from({ length: branches }, (_, i) =>
    commit(`b${i}`, i + 3, `from :2\nM 644 inline file${i}\ndata 2\nx\n`),
  )
  return Buffer.concat([
    Buffer.from(begin),
    bytes,
    Buffer.from(`\n${commit('main', 2, 'M 644 :1 large\n')}${others.join('')}done\n`),
  ])
}

async function walk(
  root: string,
  entrance: Entrance,
  seen: { readonly chunked: number; readonly gzip: number },
): Promise<string> {
  const folder = temporary()
  const url = `${entrance.origin}/git/repository.git`
  const [alice, reader] = [await entrance.token('alice'), await entrance.token('reader')]
  const as = (token: string): string[] => ['-c', `http.extraHeader=Authorization: Bearer ${token}`]
  const env = { GIT_CONFIG_NOSYSTEM: '1', GIT_TERMINAL_PROMPT: '0' }
  const local = (...args: string[]): Promise<string> =>
    runWell(['git', ...args], join(folder, 'made'), env)
  await runWell(['git', 'init', '-q', '--bare', '-b', 'main', 'repository.git'], root, env)
  await runWell(['git', 'init', '-q', '-b', 'main', 'made'], folder, env)
  const large = randomBytes(3 << 20)
  const importing = ['git', 'fast-import', '--quiet', '--done']
  await runWell(importing, join(folder, 'made'), env, history(large))

  const refused = await run(['git', ...as(reader), 'push', url, '--all'], join(folder, 'made'), env)
  demand(refused.status !== 0 && / 403\b/.test(refused.err), `a reader may push: ${refused.err}`)
  const chunkedBefore = seen.chunked
  await local(...as(alice), 'push', '-q', url, '--all')
  demand(seen.chunked > chunkedBefore, 'the push of 3 MiB was not chunked')
  await runWell(['git', ...as(reader), 'clone', '-q', url, 'cloned'], folder, env)
  demand(seen.gzip > 0, `the ${branches} wants of the clone were not sent as gzip`)
  const refs = (at: string, kind: string): Promise<string> =>
    runWell(['git', 'for-each-ref', '--format=%(objectname)', kind], join(folder, at), env)
  const sorted = (text: string): string => [...new Set(text.trim().split('\n'))].sort().join()
  const same =
    sorted(await refs('made', 'refs/heads')) === sorted(await refs('cloned', 'refs/remotes/origin'))
  demand(same, 'the clone has other commits')

  await local('checkout', '-q', 'main')
  await local('-c', 'user.name=a', '-c', 'user.email=a@example.com', 'commit', '-q', '--allow-empty', '-m', 'more') // biome-ignore format: one command
  await local(...as(alice), 'push', '-q', url, 'main')
  await runWell(['git', ...as(reader), 'pull', '-q'], join(folder, 'cloned'), env)
  const head = ['git', 'rev-parse', 'HEAD']
  const [made, pulled] = [await local('rev-parse', 'HEAD'), await runWell(head, join(folder, 'cloned'), env)] // biome-ignore format: one line
  demand(made === pulled, 'the pull did not bring the commit')
  const without = await run(['git', 'ls-remote', url], folder, env)
  demand(without.status !== 0, 'git without a token was answered')
  return `pushed ${branches + 1} branches with 3 MiB (chunked), cloned them (gzip), pulled a commit; refused a push of a reader (403), and no token`
}
