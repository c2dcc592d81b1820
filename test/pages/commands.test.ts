/** docs/commands.md, typed in its order against a fresh demo. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { freePort } from '../bench/machine.ts'
import { blocksOf, dropgateOnPath, follow, Terminal } from '../harness/pages.ts'

t.test('every command of the page prints what the page shows', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'dropgate-commands-'))
  // PostgreSQL does not run as root: it has to get through.
  chmodSync(folder, 0o711)
  const ports = new Map<number, number>()
  for (const port of [8080, 8081, 9001, 9002]) ports.set(port, await freePort())
  const terminal = new Terminal({
    folder,
    env: {
      PATH: dropgateOnPath(join(folder, 'bin')),
      DEMO_GATE_PORT: String(ports.get(8080)),
      DEMO_ADMIN_PORT: String(ports.get(8081)),
      DEMO_UPSTREAM_PORT: String(ports.get(9001)),
      DEMO_ISSUER_PORT: String(ports.get(9002)),
    },
  })
  t.teardown(async () => {
    await terminal.close()
    rmSync(folder, { recursive: true, force: true })
  })
  const demo = await terminal.start('dropgate demo', /Ctrl-C ends/)
  await terminal.type('cd dropgate-demo')
  const blocks = blocksOf('docs/commands.md', ports).map((block) => ({
    ...block,
    text: block.text
      .replaceAll('/home/ann/demo', join(folder, 'dropgate-demo'))
      .replace(/^ {2}vm \d/gm, `  ${hostname()} 1`),
  }))
  t.ok(blocks.length > 30)
  await follow(terminal, blocks)
  await demo.stop()
})
