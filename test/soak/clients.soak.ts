/**
 * Real clients through one gate, each with a token: git, npm, Socket.IO, a GraphQL subscription, Vite with hot reload. What is
 * not installed here, and cannot be fetched, is skipped by name. `CLIENTS=git,npm` does some of them.
 */
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { freePort } from '../bench/machine.ts'
import { type Client, installed, listen } from '../clients/client.ts'
import { git } from '../clients/git.ts'
import { graphqlWs } from '../clients/graphql.ts'
import { npm } from '../clients/npm.ts'
import { install } from '../clients/packages.ts'
import { socketIo } from '../clients/socket-io.ts'
import { vite } from '../clients/vite.ts'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'

const all = ['git', 'npm', 'socket.io', 'graphql', 'vite']
const wanted = process.env.CLIENTS?.split(',') ?? all
const wants = (name: string): boolean => wanted.includes(name)
const skip = (name: string, why: string): void => {
  if (wants(name)) console.log(`  ${name}: skipped, ${why}`)
}

console.log(`clients: ${wanted.join(', ')}`)
const clients: Client[] = []
for (const [name, make] of [['git', git], ['npm', npm]] as const) {
  if (!installed(name)) skip(name, 'it is not installed here')
  else if (wants(name)) clients.push(make())
} // biome-ignore format: a table
const missing = ['socket.io', 'graphql', 'vite'].some(wants) ? await install() : undefined
for (const [name, make] of [['socket.io', socketIo], ['graphql', graphqlWs], ['vite', vite]] as const) {
  if (missing !== undefined) skip(name, missing)
  else if (wants(name)) clients.push(await make())
} // biome-ignore format: a table

/** A browser has no `Authorization` of its own: it gets its cookie here. */
const signIn = createServer((req, res) => {
  const token = new URL(req.url!, 'http://a').searchParams.get('as')
  res.writeHead(200, { 'set-cookie': `session=${token}; Path=/; HttpOnly` }).end()
})

const port = await freePort()
const origin = `http://127.0.0.1:${port}`
const routes = await Promise.all(
  clients.map(async ({ name, upstream, route }) => ({
    name,
    path: `/${name}`,
    upstream: await upstream(),
    origins: [origin],
    ...route,
  })),
)
const gate = await TestGate.start({
  config: { listen: { host: '127.0.0.1', port } },
  issuer: { from: ['authorization', 'cookie:session'] },
  bundle: null,
  prepare: (folder) =>
    writeFileSync(
      join(folder, 'bundles', 'gate.tar.gz'),
      compile(`
        default decision := false
        decision if input.route.name == "sign-in"
        decision if { input.principal.subject; not reader_writes }
        reader_writes if { input.principal.subject == "reader"; "git-receive-pack" in input.parsed_path }
        reader_writes if { input.principal.subject == "reader"; "git-receive-pack" in input.parsed_query.service }`),
    ),
  routes: [
    { name: 'sign-in', path: '/public', upstream: await listen(signIn), auth: 'none' },
    ...routes,
  ],
})
const revoker = await gate.revoker()
const entrance = {
  origin,
  token: (subject: string) => gate.issuer.token(subject),
  revoke: async (subject: string) => {
    await revoker.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [subject])
  },
}
let failed = false
for (const client of clients) {
  const startedAt = performance.now()
  const told = await client.run(entrance).catch((error: Error) => {
    failed = true
    return `FAILED, ${error.message}`
  })
  console.log(`  ${client.name}: ${told}; ${((performance.now() - startedAt) / 1000).toFixed(1)} s`)
  client.close()
}
signIn.close()
await gate.stop()
process.exit(failed ? 1 : 0)
