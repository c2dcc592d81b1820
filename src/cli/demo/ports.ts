/** The ports of the demo. One that another program holds is replaced by the next free one. */
import { type LoadedConfig, loadConfig } from '../../config/load.ts'
import type { GateConfig } from '../../config/options.ts'
import { GateError } from '../../errors.ts'
import { isFree } from '../../gate/ports.ts'

interface DemoPort {
  /** The environment variable that the demo's configuration takes it from. */
  readonly variable: string
  /** The option that holds it. */
  readonly option: string
  readonly what: string
  readonly read: (config: GateConfig) => { readonly host: string; readonly port: number }
}

const ports: readonly DemoPort[] = [
  {
    variable: 'DEMO_GATE_PORT',
    option: 'listen.port',
    what: 'the gate',
    read: ({ listen }) => listen[0]!,
  },
  {
    variable: 'DEMO_ADMIN_PORT',
    option: 'admin.port',
    what: 'the admin port',
    read: ({ admin }) => admin,
  },
  {
    variable: 'DEMO_ISSUER_PORT',
    option: 'issuers[0].issuer',
    what: "the demo's issuer",
    read: ({ issuers }) => placeOf(issuers[0]!.issuer),
  },
  {
    variable: 'DEMO_UPSTREAM_PORT',
    option: 'routes[].upstream',
    what: "the demo's upstream",
    read: ({ routes }) => placeOf(routes[0]!.upstream),
  },
]
/** How many ports above the wanted one are tried. */
const most = 100

export interface ChosenPorts extends LoadedConfig {
  /** The variables that were set because ports are in use: commands need them to find this demo. */
  readonly moved: Readonly<Record<string, string>>
}

/**
 * Loads the configuration with ports that are free.
 * @param env Receives the variables, so that a reload of the configuration finds them too.
 * @throws GateError ERR_LISTEN where a port is in use and the configuration does not take it from its variable
 */
export async function choosePorts(
  file: string,
  env: NodeJS.ProcessEnv,
  say: (message: string) => void,
): Promise<ChosenPorts> {
  const before = loadConfig(file, env).config
  const taken = new Set(ports.map(({ read }) => read(before).port))
  const moved: Record<string, string> = {}
  const notes: string[] = []
  for (const each of ports) {
    const { host, port } = each.read(before)
    if (port === 0 || (await isFree(host, port))) continue
    const next = await nextFree(host, port, taken)
    if (next === undefined) throw inUse(file, each, before)
    taken.add(next)
    moved[each.variable] = env[each.variable] = String(next)
    notes.push(`port ${port} is in use by another program: ${each.what} listens on ${next}`)
  }
  const loaded = loadConfig(file, env)
  for (const each of ports) {
    if (
      moved[each.variable] !== undefined &&
      each.read(loaded.config).port === each.read(before).port
    )
      throw inUse(file, each, before)
  }
  for (const note of notes) say(note)
  return { ...loaded, moved }
}

async function nextFree(
  host: string,
  port: number,
  taken: ReadonlySet<number>,
): Promise<number | undefined> {
  for (let next = port + 1; next <= Math.min(port + most, 65_535); next++)
    if (!taken.has(next) && (await isFree(host, next))) return next
  return undefined
}

function inUse(file: string, { option, what, read }: DemoPort, config: GateConfig): GateError {
  const { host, port } = read(config)
  return new GateError(
    'ERR_LISTEN',
    `${what} cannot listen on ${host}:${port}: the port is in use`,
    {
      hint: `stop the program that listens there (\`ss -ltnp\` lists them), or change ${option} in ${file}`,
    },
  )
}

function placeOf(origin: string): { host: string; port: number } {
  const { protocol, hostname, port } = new URL(origin)
  const host = hostname.replace(/^\[(.*)\]$/, '$1')
  return { host, port: Number(port || (protocol === 'https:' ? 443 : 80)) }
}
