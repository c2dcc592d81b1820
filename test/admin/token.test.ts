import { chmodSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { readOrMakeToken } from '../../src/admin/token.ts'

t.test('a token is made once, in a folder that is made with it, for one user alone', async (t) => {
  const path = join(t.testdir({}), 'state', 'admin.token')
  const token = readOrMakeToken(path)
  t.equal(readOrMakeToken(path), token)
  t.equal(statSync(path).mode & 0o777, 0o600)
  chmodSync(path, 0o644)
  t.equal(readOrMakeToken(path), token)
  t.equal(statSync(path).mode & 0o777, 0o600)
})

t.test(
  'a folder that cannot be written stops the start, and the hint names both ways out',
  async (t) => {
    t.throws(() => readOrMakeToken('/proc/state/admin.token'), {
      code: 'ERR_CONFIG_FILE',
      message: /^cannot write admin\.token_file \/proc\/state\/admin\.token \(ENOENT\)$/,
      hint: /^set state_dir to a folder that the gate may write, or admin\.token_file /,
    })
  },
)
