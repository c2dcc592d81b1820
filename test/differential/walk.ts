/**
 * A gate in front of each differential server, with a policy that denies two places of the tree. A target that the gate
 * allows must not be a denied place to any of the servers. The same targets are also sent without a gate, past a rule
 * that compares the target as it is written: that shows what the generator can reach.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { compile } from '../harness/bundle.ts'
import { TestGate } from '../harness/gate.ts'
import { Wire } from '../harness/wire.ts'
import { type DifferentialServer, isDenied, ServedTree, type StartServers } from './server.ts'

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

/** What came of all targets on one route. */
export interface RouteResult {
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

/** One route of the gate to one of the servers, and the results of what was sent to it. */
interface ServerRoute {
  readonly server: DifferentialServer
  readonly host: string
  readonly result: RouteResult
}

export class DifferentialWalk {
  readonly tree = new ServedTree()
  readonly serverRoutes: ServerRoute[] = []
  #gate!: TestGate
  #servers: readonly DifferentialServer[] = []

  /** Each server gets two routes: one that refuses all in doubt, and one that passes matrix parameters and merges slashes. */
  static async start(
    starters: Readonly<Record<string, StartServers>>,
  ): Promise<{ walk: DifferentialWalk; absent: string[] }> {
    const walk = new DifferentialWalk()
    const absent: string[] = []
    for (const [name, startServers] of Object.entries(starters)) {
      const servers = await startServers(walk.tree)
      if (servers === undefined) absent.push(name)
      else walk.#servers = [...walk.#servers, ...servers]
    }
    const bundle = join(walk.tree.folder, 'gate.tar.gz')
    writeFileSync(bundle, compile(rego))
    const routes: Record<string, unknown>[] = []
    for (const [i, server] of walk.#servers.entries()) {
      for (const matrix_parameters of ['refuse', 'pass']) {
        const host = `${matrix_parameters}-${i}.differential.example`
        const name = matrix_parameters === 'pass' ? `${server.name} (parameters pass)` : server.name
        routes.push({
          name,
          host,
          path: '/',
          auth: 'none',
          labels: { visibility: 'public' },
          upstream: server.origin,
          matrix_parameters,
          ...(matrix_parameters === 'pass'
            ? { empty_segments: 'merge', stray_percent: 'encode' }
            : {}),
        })
        const result = { name, allowed: 0, refused: 0, resolved: 0, reached: [], naive: 0 }
        walk.serverRoutes.push({ server, host, result })
      }
    }
    walk.#gate = await TestGate.start({ bundle, config: { workers: 1 }, routes })
    return { walk, absent }
  }

  async send(targets: readonly string[]): Promise<RouteResult[]> {
    await Promise.all(this.serverRoutes.map((serverRoute) => this.#sendTo(serverRoute, targets)))
    return this.serverRoutes.map(({ result }) => result)
  }

  async #sendTo({ server, host, result }: ServerRoute, targets: readonly string[]): Promise<void> {
    const { port } = new URL(server.origin)
    let through: Wire | undefined
    let direct: Wire | undefined
    for (const written of targets) {
      const target = written.replace('HOST', host)
      const asked = await ask(through, this.#gate.port, target, host)
      through = asked.wire
      if (asked.code !== undefined) result.refused++
      else {
        result.allowed++
        if (asked.resource !== undefined) result.resolved++
        if (asked.resource !== undefined && isDenied(asked.resource)) result.reached.push(target)
      }
      const plain = await ask(direct, Number(port), target, host)
      direct = plain.wire
      if (plain.resource !== undefined && isDenied(plain.resource) && !isDenied(target))
        result.naive++
    }
    through?.destroy()
    direct?.destroy()
  }

  async stop(): Promise<void> {
    await this.#gate.stop()
    await Promise.all(this.#servers.map((server) => server.close()))
    this.tree.remove()
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
