/** The commands that the demo prints, to be pasted as they are: with its ports, its folder and the name of the program. */
import { accessSync, constants, existsSync } from 'node:fs'
import { delimiter, join, relative, resolve } from 'node:path'
import { databaseUrl } from '../database.ts'
import { commandName, root } from '../output.ts'
import { shellWord } from '../shell.ts'
import type { DemoFiles } from './files.ts'
import type { ChosenPorts } from './ports.ts'

interface Scene {
  readonly files: DemoFiles
  readonly chosen: ChosenPorts
  /** The bound port of the gate. */
  readonly port: number
  readonly token: string
  readonly nextId: number | undefined
  /** How long the start took. */
  readonly seconds: number
}

/** How a command of dropgate is written in the second terminal. */
interface Writing {
  /** The folder in which it is run. */
  readonly folder: string
  readonly command: (what: string) => string
}

export function instructions({ files, chosen, port, token, nextId, seconds }: Scene): string {
  const { config, moved } = chosen
  const [issuer] = config.issuers
  const origin = `http://127.0.0.1:${port}`
  const { folder, command } = writingOf(files)
  const insert =
    "INSERT INTO dropgate.revocations (subject, reason) VALUES ('alice', 'left the company')"
  const psql = onPath('psql')
    ? ['', '   or with psql:', `  psql ${shellWord(databaseUrl(config, 'cli_url'))} -c "${insert}"`]
    : []
  const lines = [
    '',
    `dropgate is ready on ${origin} after ${seconds.toFixed(1)} s. In a second terminal:`,
    '',
    `  cd ${shellWord(folder)}`,
    ...Object.entries(moved).map(([name, value]) => `  export ${name}=${value}`),
    `  TOKEN=${token}`,
    '',
    '1. Alice is a clerk: her request is allowed.',
    `  curl -i -H "Authorization: Bearer $TOKEN" ${origin}/orders`,
    '',
    '2. She may also open a stream: it sends a line every second.',
    `  curl -N -H "Authorization: Bearer $TOKEN" ${origin}/orders/news &`,
    `  ${command('live')}`,
    '',
    '3. Revoke her access by inserting one row.',
    `  ${command('sql')} "${insert}"`,
    ...psql,
    '',
    '   Her open stream has ended, and the same request is refused: 401, ERR_REVOKED.',
    `  curl -i -H "Authorization: Bearer $TOKEN" ${origin}/orders`,
    '',
    '4. See the row, lift it, and sign in again. Tokens from before the lift stay revoked, and so do those of the 5 s',
    '   after it, because clocks may differ by that much.',
    `  ${command('list')}`,
    `  ${command('lift')} ${nextId ?? 'ID'}`,
    `  sleep 6; TOKEN=$(curl -s "${issuer!.issuer}/token?subject=alice&role=clerk")`,
    ...changeOfRules(files, folder, command, origin),
    '',
    'Ctrl-C ends everything.',
    '',
  ]
  return lines.join('\n')
}

/** Only the demo's own policies have the rule that is to be changed. */
function changeOfRules(
  files: DemoFiles,
  folder: string,
  command: Writing['command'],
  origin: string,
): string[] {
  const data = join(files.folder, 'policies', 'data.json')
  if (!existsSync(data)) return []
  const isCheckout = files.folder === resolve(root) && existsSync(join(root, 'Makefile'))
  const at = (path: string): string => shellWord(relative(folder, join(files.folder, path)))
  const places =
    files.folder === folder
      ? ''
      : ` --policies ${at('policies')} --out ${at('bundles/gate.tar.gz')}`
  const build = isCheckout ? 'make bundle' : `${command('build')}${places}`
  return [
    '',
    '5. Change a rule. A clerk may not read reports (403, ERR_POLICY_DENIED):',
    `  curl -i -H "Authorization: Bearer $TOKEN" ${origin}/reports`,
    `   Add { "methods": ["GET"], "path": ["reports"] } to the list of the clerk in ${relative(folder, data)}, then`,
    '   build the policy (this needs opa, or Go to install it):',
    `  ${build}`,
    `  curl -i -H "Authorization: Bearer $TOKEN" ${origin}/reports`,
  ]
}

/** npm runs the commands of a checkout in the checkout's folder, all others run where the user is. */
function writingOf({ file, folder }: DemoFiles): Writing {
  const name = commandName()
  const there = name.startsWith('npm run') ? resolve(root) : folder
  const isFound = resolve(there, 'dropgate.yaml') === resolve(file)
  const config = isFound ? '' : ` --config ${shellWord(relative(there, file))}`
  return { folder: there, command: (what) => `${name} ${what}${config}` }
}

function onPath(name: string): boolean {
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}
