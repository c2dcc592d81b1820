/** The tutorials, typed as they stand, with other ports. */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { findOpa } from '../../src/bundle/opa.ts'
import { freePort } from '../bench/machine.ts'
import { type Block, blocksOf, dropgateOnPath, follow, Terminal } from '../harness/pages.ts'
import { until } from '../harness/wait.ts'

interface Place {
  readonly folder: string
  readonly ports: ReadonlyMap<number, number>
  readonly terminal: Terminal
}

/** An empty folder with the demo's bundle and policies, free ports for those that the page names, and a terminal. */
async function place(
  t: Test,
  named: readonly number[],
  env: Record<string, string> = {},
): Promise<Place> {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-tutorial-'))
  mkdirSync(join(folder, 'bundles'))
  cpSync('bundles/gate.tar.gz', join(folder, 'bundles/gate.tar.gz'))
  const ports = new Map<number, number>()
  for (const port of named) ports.set(port, await freePort())
  const path = [dirname(findOpa(process.cwd())), dropgateOnPath(join(folder, 'bin'))].join(':')
  const terminal = new Terminal({ folder, env: { ...env, PATH: path } })
  t.teardown(async () => {
    await terminal.close()
    rmSync(folder, { recursive: true, force: true })
  })
  return { folder, ports, terminal }
}

/** Types the page up to its end, with the gate listening and ready where it says `serve`. */
async function typed(
  t: Test,
  { terminal, folder }: Place,
  blocks: readonly Block[],
): Promise<void> {
  const serve = blocks.findIndex(({ text }) => text.trim() === 'dropgate serve')
  const admin = await freePort()
  const rest = blocks.slice(serve + 1)
  await follow(terminal, blocks.slice(0, serve))
  // The page leaves the admin port at its default, which another test may have.
  const file = join(folder, 'dropgate.yaml')
  writeFileSync(file, `admin: {port: ${admin}}\n${readFileSync(file, 'utf8')}`)
  const [gate] = await follow(terminal, blocks.slice(serve, serve + 1))
  await until(
    () => `ready:\n${gate!.printed()}`,
    async () => (await fetch(`http://127.0.0.1:${admin}/readyz`)).status === 200,
    120_000,
  )
  await follow(terminal, rest)
  t.pass('every block ran')
}

interface Realm {
  readonly server: Server
  token(subject: string, session: string): Promise<string>
}

/** An issuer with the addresses and the tokens of Keycloak: its reference pages, 26.0. */
async function keycloak(t: Test, port: number, path: string): Promise<Realm> {
  const issuer = `http://127.0.0.1:${port}${path}`
  const { privateKey, publicKey } = await generateKeyPair('RS256')
  const jwk = { ...(await exportJWK(publicKey)), kid: 'one', alg: 'RS256', use: 'sig' }
  const token = (subject: string, session: string): Promise<string> =>
    new SignJWT({
      auth_time: Math.floor(Date.now() / 1000),
      typ: 'Bearer',
      azp: 'app',
      sid: session,
      acr: '1',
      'allowed-origins': ['*'],
      realm_access: { roles: ['offline_access', 'clerk'] },
      resource_access: { account: { roles: ['manage-account'] } },
      scope: 'openid email profile',
      email_verified: false,
      groups: ['/staff'],
      preferred_username: subject,
      roles: ['clerk'],
    })
      .setProtectedHeader({ alg: 'RS256', typ: 'JWT', kid: 'one' })
      .setIssuer(issuer)
      .setAudience(['api', 'account'])
      .setSubject(subject)
      .setJti(crypto.randomUUID())
      .setIssuedAt()
      .setExpirationTime('5m')
      .sign(privateKey)
  const server = createServer(async (req, res) => {
    const at = req.url!.slice(path.length)
    res.setHeader('content-type', 'application/json')
    if (at === '/.well-known/openid-configuration')
      res.end(JSON.stringify({ issuer, jwks_uri: `${issuer}/protocol/openid-connect/certs` }))
    else if (at === '/protocol/openid-connect/certs') res.end(JSON.stringify({ keys: [jwk] }))
    else if (at === '/protocol/openid-connect/token' && req.method === 'POST')
      res.end(
        JSON.stringify({ access_token: await token('alice', 'one-session'), expires_in: 300 }),
      )
    else res.writeHead(404).end()
  })
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  t.teardown(() => server.close().closeAllConnections())
  return { server, token }
}

/** A service that says what it got, and that streams on a path that ends in `news`. */
async function service(t: Test, port: number): Promise<void> {
  const server = createServer((req, res) => {
    if (!req.url!.endsWith('/news')) {
      res.end(JSON.stringify({ path: req.url, headers: req.headers }))
      return
    }
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    const timer = setInterval(() => res.write('data: open\n\n'), 50)
    res.on('close', () => clearInterval(timer))
  })
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  t.teardown(() => server.close().closeAllConnections())
}

t.test('tokens of Keycloak', async (t) => {
  const here = await place(t, [8080, 9001, 9002])
  await keycloak(t, here.ports.get(9002)!, '/realms/acme')
  await service(t, here.ports.get(9001)!)
  const blocks = blocksOf('docs/tutorials/keycloak.md', here.ports)
  await typed(t, here, blocks)
})

const withoutNginx = spawnSync('nginx', ['-v']).status === 0 ? false : 'nginx is not installed'
t.test('behind nginx', { skip: withoutNginx }, async (t) => {
  const here = await place(t, [8080, 8443, 9001, 9002])
  const realm = await keycloak(t, here.ports.get(9002)!, '')
  await service(t, here.ports.get(9001)!)
  const blocks = blocksOf('docs/tutorials/nginx.md', here.ports).map((block) => ({
    ...block,
    // The stand-in signs as Keycloak does.
    text: block.text.replace(
      'audience: [api]}',
      'audience: [api], algorithms: [RS256], preset: keycloak}',
    ),
  }))
  await here.terminal.type(`TOKEN=${await realm.token('alice', 'one')}`)
  t.teardown(() => {
    const pid = readFileSync(join(here.folder, 'nginx.pid'), 'utf8').trim()
    process.kill(Number(pid), 'SIGQUIT')
  })
  await typed(t, here, blocks)
  t.match(readFileSync(join(here.folder, 'news.txt'), 'utf8'), /^data: open$/m)
})

t.test('policies by CI', async (t) => {
  const here = await place(t, [8080])
  cpSync('dropgate.yaml', join(here.folder, 'dropgate.yaml'))
  cpSync('policies', join(here.folder, 'policies'), { recursive: true })
  const blocks = blocksOf('docs/tutorials/ci.md')
  rmSync(join(here.folder, 'bundles'), { recursive: true })
  await follow(here.terminal, blocks)
  const built = readFileSync(join(here.folder, 'bundles/gate.tar.gz'))
  t.ok(built.length > 0, 'the hook of the server has put a bundle in place')

  const bad = `cd policies-repo
echo 'test_it_fails if false' >> policies/authz_test.rego
git -c user.name=ci -c user.email=ci@example.com commit -q -a -m 'a bad one'
git push -q ../policies.git main
cd ..`
  const said = await here.terminal.type(bad)
  t.match(said, /remote:.*test_it_fails/, 'the pusher sees why')
  t.same(readFileSync(join(here.folder, 'bundles/gate.tar.gz')), built, 'the bundle before stays')

  const workflow = parse(blocks.find(({ language }) => language === 'text')!.text)
  const runs = workflow.jobs.bundle.steps.flatMap(({ run }: { run?: string }) => run ?? [])
  const shell = blocks.filter(({ language }) => language === 'sh').map(({ text }) => text)
  for (const step of ['dropgate test policies', 'dropgate build --strict --out gate.tar.gz']) {
    t.ok(runs.includes(step), `the workflow runs: ${step}`)
    t.ok(
      shell.some((text) => text.includes(step)),
      `so do the steps: ${step}`,
    )
  }
})

t.test('docs/policies.md', async (t) => {
  const here = await place(t, [])
  cpSync('dropgate.yaml', join(here.folder, 'dropgate.yaml'))
  cpSync('policies', join(here.folder, 'policies'), { recursive: true })
  await follow(here.terminal, blocksOf('docs/policies.md'))
  t.equal(here.terminal.printed.match(/^allow/gm)?.length, 2, here.terminal.printed)
})
