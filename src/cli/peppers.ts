/** The secrets by which a command hashes a token. */
import { loadConfig } from '../config/load.ts'
import { readPeppers } from '../config/peppers.ts'

/** Read only where a token is hashed: when the file is missing, a revocation by name must still work. */
export function readPepperFile(file: string): readonly Buffer[] {
  const { config } = loadConfig(file, process.env, ['revocation.pepper_file'])
  return readPeppers(config.revocation.pepper_file)
}
