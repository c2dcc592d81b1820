/** Which configuration the demo runs, and where the policies are that it invites to change. */
import { cpSync, existsSync, renameSync, rmSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { makeFolder } from '../../domain/folder.ts'
import { GateError } from '../../errors.ts'
import { root } from '../output.ts'

/** The folder that is made where the demo is started without a dropgate.yaml. */
const demoFolder = 'dropgate-demo'

/** The file that `--config` names when it is not given. */
const standard = 'dropgate.yaml'

/** What the demo needs of the folder in which dropgate is installed. */
const carried = [standard, 'dropgate.schema.json', 'policies', 'bundles']

export interface DemoFiles {
  /** The configuration. */
  readonly file: string
  /** Its folder, absolute: the printed commands are to be run there. */
  readonly folder: string
  /** True where the folder was made just now. */
  readonly made: boolean
}

/**
 * In a folder without a dropgate.yaml the demo runs its own, a copy in `dropgate-demo`: the demo invites to change its
 * policies, and keeps its database there. A later demo in the same place goes on with that copy.
 * @param config The value of `--config`.
 * @throws GateError ERR_CONFIG_READ
 */
export function demoFiles(config: string): DemoFiles {
  if (config !== standard || existsSync(config))
    return { file: config, folder: dirname(resolve(config)), made: false }
  const folder = resolve(demoFolder)
  const made = !existsSync(join(folder, standard))
  if (made) copyTo(folder)
  return { file: join(folder, standard), folder, made }
}

/** Makes the folder as a whole: half a copy would be used as it is by the next demo. */
function copyTo(folder: string): void {
  const half = `${folder}.new`
  try {
    rmSync(half, { recursive: true, force: true })
    makeFolder(half)
    for (const name of carried) cpSync(join(root, name), join(half, name), { recursive: true })
    renameSync(half, folder)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new GateError('ERR_CONFIG_READ', `cannot create the folder ${folder} (${code})`, {
      cause: error,
      hint:
        code === 'ENOTEMPTY'
          ? 'it exists, and holds no dropgate.yaml: move it away, or start the demo in another folder'
          : 'start the demo in a folder to which you may write, or in one with a dropgate.yaml',
    })
  }
}
