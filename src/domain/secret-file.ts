/** Secret file: a file that holds a secret, which other users of the machine must not be able to read. */
import type { Stats } from 'node:fs'

/**
 * The rule is that of PostgreSQL for its private keys: a file of this user is for this user alone; one that root hands
 * over may also be read by its group. Kubernetes mounts Secrets like that (`fsGroup`), and systemd its credentials.
 */
export function isOpenToOthers(
  { mode, uid }: Pick<Stats, 'mode' | 'uid'>,
  self = process.getuid?.(),
): boolean {
  const isHandedOver = uid === 0 && self !== 0
  return (mode & (isHandedOver ? 0o037 : 0o077)) !== 0
}
