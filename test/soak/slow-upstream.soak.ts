/** Uploads to an upstream that reads nothing for a while arrive; one that never answers is ended. `SECONDS=45 MEGABYTES=20` */
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { pause } from '../harness/wait.ts'

const seconds = Number(process.env.SECONDS ?? 45)
const megabytes = Number(process.env.MEGABYTES ?? 20)
const server = createServer(async (req, res) => {
  if (req.url === '/never') return
  // Nobody reads the body until then, so its buffers fill and the connection stands still.
  await pause(seconds * 1000)
  let bytes = 0
  for await (const chunk of req) bytes += (chunk as Buffer).length
  res.end(String(bytes))
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const upstream = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
const gate = await TestGate.start({
  bundle: null,
  prepare: (folder) =>
    writeFileSync(
      join(folder, 'bundles', 'gate.tar.gz'),
      compile('default decision := false\n\ndecision if input.attributes.request.http.method'),
    ),
  routes: [{ name: 'all', path: '/', upstream, auth: 'none' }],
})
const body = Buffer.alloc(megabytes << 20, 'x')
const uploads = await Promise.all(
  ([{}, { 'transfer-encoding': 'chunked' }] as Record<string, string>[]).map((headers) =>
    gate.ask('/late', undefined, { method: 'POST', body, headers }),
  ),
)
const began = performance.now()
const never = await gate.ask('/never', undefined, { method: 'POST', body: 'x' })
const took = (performance.now() - began) / 1000
const arrived = uploads.filter((each) => each.status === 200 && each.body === String(body.length))
process.stdout.write(
  `${arrived.length} of ${uploads.length} uploads of ${megabytes} MiB arrived at an upstream that read nothing for ${seconds} s; one that never answered was ended with ${never.status} after ${took.toFixed(1)} s\n`,
)
await gate.stop()
server.closeAllConnections()
server.close()
process.exit(arrived.length === uploads.length && never.status === 504 ? 0 : 1)
