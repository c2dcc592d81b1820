/** docs/start.md, typed from the demo to the end of the first hour. */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import t from 'tap'
import { freePort } from '../bench/machine.ts'
import { blocksOf, follow, Terminal } from '../harness/pages.ts'
import { startPostgres } from '../harness/postgres.ts'
import { makePristine } from '../harness/pristine.ts'
import { until } from '../harness/wait.ts'

t.test('the first hour', async (t) => {
  const cluster = await startPostgres()
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-start-'))
  // PostgreSQL does not run as root: it has to get through.
  chmodSync(folder, 0o711)
  const { password } = await makePristine(cluster.migrate_url)
  // So npx finds the program of this checkout, and asks no registry.
  mkdirSync(join(folder, 'node_modules/.bin'), { recursive: true })
  symlinkSync(resolve('bin/dropgate.js'), join(folder, 'node_modules/.bin/dropgate'))

  const ports = new Map([[5432, Number(new URL(cluster.url).port)]])
  for (const port of [8080, 8081, 9001, 9002, 8090, 8091]) ports.set(port, await freePort())
  const terminal = new Terminal({
    folder,
    env: {
      PATH: process.env.PATH!,
      PGPASSWORD: password,
      DEMO_GATE_PORT: String(ports.get(8080)),
      DEMO_ADMIN_PORT: String(ports.get(8081)),
      DEMO_UPSTREAM_PORT: String(ports.get(9001)),
      DEMO_ISSUER_PORT: String(ports.get(9002)),
    },
  })
  t.teardown(async () => {
    await terminal.close()
    await cluster.close()
    rmSync(folder, { recursive: true, force: true })
  })

  const [demo] = await follow(terminal, blocksOf('docs/start.md', ports), /Ctrl-C ends/)
  const statuses = terminal.printed.match(/HTTP\/1.1 \d+/g)?.map((line) => line.slice(-3))
  t.same(statuses, ['200', '401', '200', '200', '401', '401', '200'], terminal.printed)
  // npx ends at once, and the gate when it has noticed that.
  const log = (): string => readFileSync(join(folder, 'my-gate/gate.log'), 'utf8')
  await until(
    () => `the gate has stopped: ${log()}`,
    () => log().includes('"msg":"stopped"'),
  )
  await demo!.stop()
  t.match(demo!.printed(), /stopping \.\.\. \d+\.\d s/)
})
