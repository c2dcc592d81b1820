/**
 * A gate in front of every server of the garden, with a policy that denies two places of the tree: whatever target is
 * allowed, no server may take it for one of them. Beside it, the same targets without a gate, past a rule that looks at
 * the target as it is written: that shows what the generator can reach.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { Wire } from '../harness/wire.ts'
import { Garden, type GardenServer, isDenied, type Plant } from './server.ts'

const rego = `import rego.v1

decision if {
  input.route.labels.visibility == "public"
  not denied
}

denied if input.parsed_path[0] == "secret"

denied if {
  input.parsed_path[0] == "public"
  input.parsed_path[1] == "private"
}
`

export interface Harvest {
  readonly name: string
  allowed: number
  refused: number
  /** Allowed, and the server said which resource it is. */
  resolved: number
  /** Targets that were allowed although the server takes them for a denied place. */
  readonly reached: string[]
  /** Targets that reach a denied place where a rule compares what is written. */
  naive: number
}

interface Plot {
  readonly server: GardenServer
  readonly host: string
  readonly harvest: Harvest
}

export class GardenWalk {
  readonly garden = new Garden()
  readonly plots: Plot[] = []
  #gate!: TestGate
  #servers: readonly GardenServer[] = []

  /** Each server gets two routes: one that refuses matrix parameters and one that lets them pass. */
  static async start(
    plants: Readonly<Record<string, Plant>>,
  ): Promise<{ walk: GardenWalk; absent: string[] }> {
    const walk = new GardenWalk()
    const absent: string[] = []
    for (const [name, plant] of Object.entries(plants)) {
      const servers = await plant(walk.garden)
      if (servers === undefined) absent.push(name)
      else walk.#servers = [...walk.#servers, ...servers]
    }
    const bundle = join(walk.garden.folder, 'gate.tar.gz')
    writeFileSync(bundle, compile(rego))
    const routes: Record<string, unknown>[] = []
    for (const [i, server] of walk.#servers.entries()) {
      for (const matrix_parameters of ['refuse', 'pass']) {
        const host = `${matrix_parameters}-${i}.garden.example`
        const name = matrix_parameters === 'pass' ? `${server.name} (parameters pass)` : server.name
        routes.push({
          name,
          host,
          path: '/',
          auth: 'none',
          labels: { visibility: 'public' },
          upstream: server.origin,
          matrix_parameters,
        })
        const harvest = { name, allowed: 0, refused: 0, resolved: 0, reached: [], naive: 0 }
        walk.plots.push({ server, host, harvest })
      }
    }
    walk.#gate = await TestGate.start({ bundle, config: { workers: 1 }, routes })
    return { walk, absent }
  }

  async send(targets: readonly string[]): Promise<Harvest[]> {
    await Promise.all(this.plots.map((plot) => this.#sendTo(plot, targets)))
    return this.plots.map(({ harvest }) => harvest)
  }

  async #sendTo({ server, host, harvest }: Plot, targets: readonly string[]): Promise<void> {
    const { port } = new URL(server.origin)
    let through: Wire | undefined
    let direct: Wire | undefined
    for (const written of targets) {
      const target = written.replace('HOST', host)
      const asked = await ask(through, this.#gate.port, target, host)
      through = asked.wire
      if (asked.code !== undefined) harvest.refused++
      else {
        harvest.allowed++
        if (asked.resource !== undefined) harvest.resolved++
        if (asked.resource !== undefined && isDenied(asked.resource)) harvest.reached.push(target)
      }
      const plain = await ask(direct, Number(port), target, host)
      direct = plain.wire
      if (plain.resource !== undefined && isDenied(plain.resource) && !isDenied(target))
        harvest.naive++
    }
    through?.destroy()
    direct?.destroy()
  }

  async stop(): Promise<void> {
    await this.#gate.stop()
    await Promise.all(this.#servers.map((server) => server.close()))
    this.garden.remove()
  }
}

interface Asked {
  readonly wire: Wire | undefined
  readonly code: string | undefined
  readonly resource: string | undefined
}

/** One request, on the connection that is given while it lasts. */
async function ask(
  open: Wire | undefined,
  port: number,
  target: string,
  host: string,
): Promise<Asked> {
  const wire = open === undefined || open.closed ? await Wire.open(port) : open
  wire.write(`GET ${target} HTTP/1.1\r\nHost: ${host}\r\n\r\n`)
  const answer = await wire.answer()
  if (answer === undefined) {
    wire.destroy()
    // A kept connection may end while it is asked; a fresh one that ends has refused.
    return open === undefined || open.closed
      ? { wire: undefined, code: 'closed', resource: undefined }
      : ask(undefined, port, target, host)
  }
  const { code, body } = answer
  const resource = /^resource:(.*)/s.exec(body)?.[1]
  if (
    !answer.headers.some(
      ([name, value]) => name === 'connection' && value.toLowerCase() === 'close',
    )
  ) {
    return { wire, code, resource }
  }
  wire.destroy()
  return { wire: undefined, code, resource }
}
