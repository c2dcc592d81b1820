/**
 * Builds the image of deploy/container by buildah, on a Debian made by mmdebstrap in the place of the published base, which
 * this machine may not be able to pull. Then run-image.ts runs it.
 */
import { equal, ok } from 'node:assert/strict'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { onPath } from '../smoke.ts'
import { run } from '../stage.ts'
import { apart, missing } from './tools.ts'

const root = join(import.meta.dirname, '../..')
/** Kept, since making the base takes minutes. */
const kept = join(root, '.tools/container')
const base = 'localhost/dropgate-base'
const image = 'localhost/dropgate'

/** What image builders keep of a Dockerfile. */
export interface ImageConfig {
  readonly User: string
  readonly Env: readonly string[]
  readonly Entrypoint: readonly string[]
  readonly Cmd: readonly string[]
  readonly WorkingDir: string
  readonly StopSignal: string
  readonly Healthcheck: { readonly Test: readonly string[] }
}

export function tryImage(packed: string, say: (text: string) => void): void {
  const absent = missing('the image', ['buildah', 'bwrap', 'mmdebstrap', 'psql', 'npm'])
  if (absent !== undefined || process.getuid?.() !== 0) {
    say(absent ?? 'not tried: the image: only root can build it here')
    return
  }
  makeBase(say)
  const context = mkdtempSync(join(tmpdir(), 'dropgate-context-'))
  try {
    cpSync(packed, join(context, basename(packed)))
    const file = join(root, 'deploy/container/Dockerfile')
    buildah(['bud', ...how, `--build-arg=BASE=${base}`, `--tag=${image}`, '--file', file, context])
  } finally {
    rmSync(context, { recursive: true, force: true })
  }
  const { Docker } = JSON.parse(buildah(['inspect', '--type=image', image])) as {
    Docker: { config: ImageConfig }
  }
  const config = Docker.config
  equal(config.User, '65532:65532')
  equal(config.StopSignal, 'SIGTERM')
  for (const list of [config.Entrypoint, config.Cmd]) ok(list[0] !== '/bin/sh', 'without a shell')
  say('deploy/container/Dockerfile: built by buildah; the published base was not pulled')
  const container = buildah(['from', image]).trim()
  try {
    const folder = buildah(['mount', container]).trim()
    apart(join(import.meta.dirname, 'run-image.ts'), [folder, JSON.stringify(config)])
  } finally {
    buildah(['rm', container])
  }
}

/** A daemon that isolates a build is what this machine does not have. */
const how = ['--format=docker', '--isolation=chroot', '--layers']

function buildah(args: readonly string[]): string {
  const storage = ['--root', join(kept, 'storage'), '--runroot', join(kept, 'run')]
  return run('buildah', [...storage, ...args], root)
}

/** What the Dockerfile expects of its base: Debian with Node.js and npm. */
function makeBase(say: (text: string) => void): void {
  const context = join(kept, 'base')
  mkdirSync(context, { recursive: true })
  const system = join(context, 'system.tar')
  if (!existsSync(system)) {
    say('making a Debian to build the image on: some minutes, once')
    const packages = '--include=ca-certificates,libstdc++6,libatomic1'
    run('mmdebstrap', ['--variant=essential', packages, 'bookworm', system], root)
  }
  cpSync(realpathSync(process.execPath), join(context, 'node'))
  const npm = join(dirname(realpathSync(onPath('npm')!)), '..')
  cpSync(npm, join(context, 'npm'), { recursive: true })
  const lines = [
    'FROM scratch',
    'ADD system.tar /',
    'COPY node /usr/local/bin/node',
    'COPY npm /usr/local/lib/node_modules/npm',
    'RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm',
  ]
  writeFileSync(join(context, 'Dockerfile'), `${lines.join('\n')}\n`)
  buildah(['bud', ...how, `--tag=${base}`, context])
}
