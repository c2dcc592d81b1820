/**
 * docs/production.md, typed with the package as npm installs it: own PostgreSQL, two gates, a revocation that both confirm, a
 * restart of one after the other while the issuer is away. Then, on the same two gates, what README.md, docs/revocation.md
 * and docs/runbook.md print.
 */
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import { findOpa } from '../../src/bundle/opa.ts'
import { freePort } from '../bench/machine.ts'
import { TestIssuer } from '../harness/issuer.ts'
import { packDropgate } from '../harness/packed.ts'
import { type Block, blocksOf, follow, type Job, Terminal } from '../harness/pages.ts'
import { startPostgres } from '../harness/postgres.ts'
import { makePristine } from '../harness/pristine.ts'
import { started, until } from '../harness/wait.ts'

const folder = mkdtempSync(join(tmpdir(), 'dropgate-production-'))
// PostgreSQL does not run as root: it has to get through.
chmodSync(folder, 0o711)
const cluster = await startPostgres()
const administrator = await makePristine(cluster.migrate_url)
const issuer = new TestIssuer()
await issuer.open()
const service = createServer((req, res) => res.end(JSON.stringify(req.headers)))
await new Promise<void>((resolve) => service.listen(0, '127.0.0.1', resolve))
const packed = await started('packing', packDropgate(folder))

const portOf = (url: string): number => Number(new URL(url).port)
const ports = new Map([
  [5432, portOf(cluster.migrate_url)],
  [9001, (service.address() as { port: number }).port],
  [9002, portOf(issuer.url)],
])
for (const port of [8080, 8081, 8090, 8091]) ports.set(port, await freePort())

const home = join(folder, 'home')
mkdirSync(home)
const terminal = new Terminal({
  folder: home,
  env: {
    ...packed.env,
    npm_config_prefix: join(folder, 'global'),
    PATH: [join(folder, 'global/bin'), dirname(findOpa(process.cwd())), packed.env.PATH].join(':'),
    PGPASSWORD: administrator.password,
    TOKEN: await issuer.token('alice'),
  },
  // As a member of the owner's role, in the database of the page.
  sqlUrl: () => {
    const url = new URL(administrator.url)
    url.pathname = '/dropgate'
    return url.href
  },
})
t.teardown(async () => {
  await terminal.close()
  packed.registry.close()
  issuer.close()
  service.close().closeAllConnections()
  await cluster.close()
  rmSync(folder, { recursive: true, force: true })
})

const admins = [ports.get(8081)!, ports.get(8091)!]
async function ready(jobs: readonly Job[]): Promise<void> {
  for (const admin of admins)
    await until(
      () => `ready:\n${jobs.map((job) => job.printed()).join('\n')}`,
      async () => {
        const answer = await fetch(`http://127.0.0.1:${admin}/readyz`).catch(() => undefined)
        return answer?.status === 200
      },
      120_000,
    )
}

const page = blocksOf('docs/production.md', ports)
const sections = (blocks: readonly Block[], from: string, to = from): readonly Block[] => {
  const first = blocks.findIndex(({ section }) => section.startsWith(from))
  const last = blocks.findLastIndex(({ section }) => section.startsWith(to))
  t.ok(first !== -1 && last >= first, `${from} to ${to}`)
  return blocks.slice(first, last + 1)
}

let gates: Job[] = []

t.test('from an empty folder to two gates', async (t) => {
  const blocks = sections(page, '1.', '4.')
  // The last block asks both: a reader waits until they are ready.
  gates = await follow(terminal, blocks.slice(0, -1))
  t.equal(gates.length, 2)
  await ready(gates)
  await follow(terminal, blocks.slice(-1))
  const [, said = ''] = terminal.printed.split('2 gates of this database')
  t.match(said, /2 ready/)
  t.same([...packed.registry.fetched], ['dropgate'], 'it is the package that runs')
})

t.test('a request, and a revocation that both gates confirm', async (t) => {
  await follow(terminal, sections(page, '5.'))
  await follow(terminal, sections(page, '6.'))
  t.equal(terminal.printed.match(/: in force after [\d.]+ ms/g)?.length, 4, 'two rows at two gates')
  t.match(terminal.printed, /alice is blocked/)
})

t.test('one gate after the other is restarted while the issuer is away', async (t) => {
  let token = ''
  const asks = async (): Promise<number[]> => {
    const statuses: number[] = []
    for (const port of [ports.get(8080)!, ports.get(8090)!]) {
      const headers = { authorization: `Bearer ${token}` }
      const answer = await fetch(`http://127.0.0.1:${port}/orders`, { headers }).catch(
        () => undefined,
      )
      await answer?.arrayBuffer()
      statuses.push(answer?.status ?? 0)
    }
    return statuses
  }
  // The lifted row for everyone is a cutoff, which reaches 5 s beyond the lift.
  await until('bob can sign in', async () => {
    token = await issuer.token('bob')
    return (await asks()).every((status) => status === 200)
  })
  issuer.down = true
  const { fetches } = issuer
  // A client with a load balancer: it takes the gate that is ready.
  let served = 0
  let failed = 0
  let asking = true
  const client = (async () => {
    while (asking) {
      if ((await asks()).includes(200)) served++
      else failed++
    }
  })()
  const commands = ['dropgate serve', 'dropgate serve --config second.yaml']
  for (const [i, command] of commands.entries()) {
    await gates[i]!.stop('TERM')
    gates[i] = await terminal.start(command, /"msg":"listening"/)
    await ready(gates)
  }
  asking = false
  await client
  t.same(await asks(), [200, 200], 'by the keys of before')
  t.equal(issuer.fetches, fetches, 'the issuer was away')
  t.equal(failed, 0)
  t.ok(served > 0)
  issuer.down = false
})

t.test('the log and the backup', async (t) => {
  // Written to a file of its own, to be read: the page shows a part of the configuration.
  const [log, backup] = page.slice(-2)
  t.match(log!.section, /^8\./)
  const config = join(home, 'dropgate.yaml')
  const text = readFileSync(config, 'utf8')
  const replaced = text.replace(/decision_log:\n {2}sink: stdout\n/, log!.text)
  t.not(replaced, text)
  await terminal.type(
    `cat > logged.yaml <<'EOF'\n${replaced}EOF\ndropgate config check --config logged.yaml`,
  )
  // It dumps no server that is newer than itself, and some machines have none.
  await terminal.type(
    `pg_dump --version | grep -q ' 18' || pg_dump() { echo 'no pg_dump 18 here'; }`,
  )
  await follow(terminal, [backup!])
})

t.test('README.md: the row', async (t) => {
  const [row] = blocksOf('README.md')
  t.equal(row!.language, 'sql')
  await terminal.sql(row!.text, 'README.md')
  t.match(await terminal.type('dropgate who alice'), /alice is blocked/)
})

t.test('docs/revocation.md', async () => {
  await follow(terminal, blocksOf('docs/revocation.md', ports))
})

const unshared = spawnSync('unshare', ['--mount', 'true'])
const skip = unshared.status === 0 ? false : 'needs the right to make a mount namespace'
t.test('docs/tutorials/systemd.md', { skip }, async (t) => {
  // The folders of the system that the page writes to are copies, for this shell alone.
  const etc = join(folder, 'etc')
  const root = new Terminal({
    folder: process.cwd(),
    env: { ...packed.env, GATE_PASSWORD: 'secret' },
    shell: ['unshare', '--mount'],
  })
  t.teardown(() => root.close())
  await root.type(`cp -a /etc ${etc}; mount --bind ${etc} /etc; mount -t tmpfs none /opt`)
  await root.type('mkdir -p /etc/logrotate.d /etc/systemd/system')
  await root.type('command -v systemd-analyze > /dev/null || systemd-analyze() { :; }')
  await follow(root, blocksOf('docs/tutorials/systemd.md'))
  t.match(root.printed, /dropgate\.yaml: 1 route, 1 issuer, no problem/)
})

t.test('docs/runbook.md: every command of it', async (t) => {
  const runbook = blocksOf('docs/runbook.md', ports)
  const prepare: Readonly<Record<string, () => Promise<unknown>>> = {
    'TRUNCATE by mistake': () =>
      terminal.sql(`CREATE SCHEMA backup;
        CREATE TABLE backup.revocations AS SELECT * FROM dropgate.revocations;
        TRUNCATE dropgate.revocations;`),
    'Upgrading PostgreSQL': () => Promise.all(gates.map((gate) => gate.stop('TERM'))),
  }
  for (const section of new Set(runbook.map((block) => block.section))) {
    await t.test(section, async () => {
      await prepare[section]?.()
      const blocks = runbook.filter((block) => block.section === section)
      for (const block of blocks) {
        await follow(terminal, [block])
        // Gates are let in again there, and a reader waits for them.
        if (/ALTER ROLE gate LOGIN/.test(block.text)) await ready(gates)
      }
    })
  }
  // The rows of before are back where they were lost.
  t.match(await terminal.type('dropgate list --all --json'), /left the company/)
})
