import t from 'tap'
import { isOpenToOthers } from '../../src/domain/secret-file.ts'

t.test(
  'a secret is for its user alone; what root hands over may be for the group too',
  async (t) => {
    const cases: readonly (readonly [mode: number, owner: number, self: number, open: boolean])[] =
      [
        [0o600, 1000, 1000, false],
        [0o400, 1000, 1000, false],
        [0o640, 1000, 1000, true],
        [0o604, 1000, 1000, true],
        [0o440, 0, 65532, false],
        [0o640, 0, 65532, false],
        [0o660, 0, 65532, true],
        [0o444, 0, 65532, true],
        [0o640, 0, 0, true],
        [0o600, 0, 0, false],
      ]
    for (const [mode, uid, self, open] of cases)
      t.equal(
        isOpenToOthers({ mode, uid }, self),
        open,
        `${mode.toString(8)} of ${uid} for ${self}`,
      )
  },
)
