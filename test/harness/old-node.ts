/** A Node.js of this machine that is too old for dropgate, to see what it is told. */
import { spawnSync } from 'node:child_process'
import { delimiter, join } from 'node:path'

/** Every `node` that this machine would find, with its version. */
const found = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/bin', '/usr/bin']
  .map((folder) => join(folder, 'node'))
  .map((path) => ({ path, version: versionOf(path) }))

function versionOf(node: string): number | undefined {
  const { status, stdout } = spawnSync(node, ['--version'], { encoding: 'utf8' })
  return status === 0 ? Number(/^v(\d+)\./.exec(stdout)?.[1]) : undefined
}

const path = found.find(({ version }) => version !== undefined && version < 24)?.path

export const oldNode = {
  path,
  skip: path === undefined ? 'this machine has no Node.js older than 24' : false,
}
