/**
 * Tries the packed file as on a new machine: in a namespace of its own that has Node.js with its npm, the system's shared
 * libraries, a shell for npm, and an empty folder. What runs in it is stranger.ts.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'

/** Where things are in the namespace. */
const inside = { node: '/opt/node', files: '/release', home: '/home/stranger' }

/** @throws Error when something does not work as it should */
export function smoke(packed: string, say: (text: string) => void): void {
  const [bwrap, npm] = [onPath('bwrap'), onPath('npm')]
  if (bwrap === undefined || npm === undefined || process.platform !== 'linux') {
    const missing = bwrap === undefined ? 'bwrap (package bubblewrap) is' : 'npm and Linux are'
    say(`not tried: ${missing} needed to try the packed file where there is only Node.js`)
    return
  }
  const home = mkdtempSync(join(tmpdir(), 'dropgate-release-'))
  try {
    cpSync(packed, join(home, 'dropgate.tgz'))
    // Only npm needs the network. Everything after it has a loopback of its own, so that no port is taken.
    for (const [step, network] of [
      ['install', true],
      ['demo', false],
    ] as const) {
      const args = [...namespace(home, npm, network), `${inside.files}/stranger.ts`, step]
      const { status } = spawnSync(bwrap, args, { stdio: 'inherit' })
      if (status !== 0) throw new Error(`the packed file does not work on a new machine: ${step}`)
    }
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
}

function namespace(home: string, npm: string, network: boolean): string[] {
  // As Node.js is released: npm lies beside it.
  const npmFolder = join(dirname(realpathSync(npm)), '..')
  const readable = [
    '/lib',
    '/lib64',
    '/usr/lib',
    '/bin/sh',
    '/usr/bin/env',
    '/etc/ssl',
    '/etc/hosts',
    '/etc/passwd',
  ]
  return [
    ...['--unshare-all', '--die-with-parent', '--as-pid-1', '--uid', '65534', '--gid', '65534'],
    ...(network ? ['--share-net'] : []),
    ...[...readable, '/etc/resolv.conf'].flatMap((path) => ['--ro-bind-try', path, path]),
    ...['--ro-bind', realpathSync(process.execPath), `${inside.node}/bin/node`],
    ...['--ro-bind', npmFolder, `${inside.node}/lib/node_modules/npm`],
    ...['--symlink', '../lib/node_modules/npm/bin/npm-cli.js', `${inside.node}/bin/npm`],
    ...['--symlink', '../lib/node_modules/npm/bin/npx-cli.js', `${inside.node}/bin/npx`],
    ...['--ro-bind', import.meta.dirname, inside.files],
    ...['--bind', home, inside.home, '--chdir', inside.home],
    ...['--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp', '--clearenv'],
    ...Object.entries({
      HOME: inside.home,
      // The second folder has what npm runs commands by, and nothing else.
      PATH: `${inside.node}/bin:/bin`,
      ...networkSettings(),
    }).flatMap(([name, value]) => ['--setenv', name, value]),
    `${inside.node}/bin/node`,
  ]
}

/** How this machine reaches the registry. */
function networkSettings(): Readonly<Record<string, string>> {
  const names = /^(?:https?_proxy|no_proxy|NODE_EXTRA_CA_CERTS|SSL_CERT_FILE)$/i
  const { stdout } = spawnSync('npm', ['config', 'get', 'registry'], { encoding: 'utf8' })
  const own = Object.entries(process.env).filter(([name]) => names.test(name))
  return {
    ...(Object.fromEntries(own) as Record<string, string>),
    npm_config_registry: stdout.trim(),
  }
}

function onPath(name: string): string | undefined {
  return (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path))
}
