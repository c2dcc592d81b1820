/** `revoke`: its options, and its answer; ../revoke.ts inserts the row. */
import { text as readStream } from 'node:stream/consumers'
import { GateError } from '../../errors.ts'
import type { Receipt } from '../../store/statements.ts'
import {
  addBreakglass,
  addCommand,
  type CommonOptions,
  collect,
  type StrictCommand,
} from '../command.ts'
import { count, print, printResult, printSentence } from '../output.ts'
import type { RevokeOptions, RevokeResult } from '../revoke.ts'
import { standardTimeout } from '../timeout.ts'
import { second } from '../times.ts'

export function addRevoke(program: StrictCommand): void {
  const command = addCommand(
    program,
    'revoke',
    'insert a revocation; options given together must all match',
  ).repeatHint('one revocation matches what all its options say together: for two, run it twice')
  addTargetOptions(command)
  addBreakglass(command)
  command
    .option('--issued-before <time>', 'a cutoff: tokens issued before this; without it a block')
    .option('--signed-in-before <time>', 'a cutoff on claim auth_time: sign-ins before this')
    .option('--except-session <sid>', 'do not match this session')
    .option(
      '--event-time <time>',
      "a cutoff at this time of the issuer's clock; clock_skew is not added",
    )
    .option('--expires <time>', 'when the revocation ends by itself')
    .option('--reason <text>', 'why; stored with the revocation')
    .option('--force', 'insert it even if no gate can match it')
    .option(
      '--wait',
      'wait until every gate has it in force; exit status 1 if a gate does not confirm it',
    )
    .option('--timeout <time>', `how long to wait (default: ${standardTimeout})`)
    .action(async (options: CommonOptions & RevokeOptions) => {
      const { revoke } = await import('../revoke.ts')
      const read = (): Promise<string> => readStream(process.stdin)
      report(options, await revoke(options.config, options, read))
    })
}

function addTargetOptions(command: StrictCommand): void {
  command
    .option('--subject <sub>', 'claim sub of the token, or of one of its actors')
    .option('--session <sid>', 'session id')
    .option(
      '--token <jti>',
      'token id; - reads a whole token from standard input and sends its hash',
    )
    .option('--client <id>', 'client id')
    .option('--tenant <id>', 'tenant')
    .option('--group <name>', 'one of the groups of the caller')
    .option('--key <thumbprint>', 'tokens signed with this key (RFC 7638)')
    .option('--client-cert <thumbprint>', 'client certificate of the connection (SHA-256)')
    .option(
      '--proof-key <thumbprint>',
      'certificate or key that the token is bound to (cnf, SHA-256)',
    )
    .option('--device <id>', 'device')
    .option(
      '--network <cidr>',
      'address of the client (wider than /8 or IPv6 /16: needs --breakglass)',
    )
    .option(
      '--claim <pointer=text>',
      'a claim: /role=admin, or /level:=3 for a number or boolean; repeat for more claims',
      collect,
    )
    .option('--issuer <iss>', 'only tokens of this issuer (alone: all of them; needs --breakglass)')
    .option('--everyone', 'all tokens (needs --breakglass)')
}

/** @throws GateError ERR_TIMEOUT where a gate has not confirmed the row, ERR_NOT_FOUND where it was deleted before */
function report(
  options: CommonOptions & RevokeOptions,
  { row, target, receipts, deleted }: RevokeResult,
): void {
  const missing = receipts?.filter(({ ms }) => ms === null) ?? []
  const value =
    receipts === undefined
      ? row
      : { ...row, receipts: receipts.filter(({ ms }) => ms !== null), missing }
  printResult(options, value, () => {
    printSentence(
      `revoked: row ${row.id}${target === undefined ? '' : `, ${target}`}, ${effectOf(row)}`,
    )
    for (const receipt of receipts ?? []) print(receiptLine(receipt))
  })
  if (missing.length === 0 && receipts?.length !== 0) return
  if (deleted) {
    throw new GateError(
      'ERR_NOT_FOUND',
      `revocation ${row.id} was deleted before every gate had confirmed it: it is not in force`,
      { hint: `dropgate.audit shows which login deleted it and when: row_id = ${row.id}` },
    )
  }
  throw new GateError(
    'ERR_TIMEOUT',
    receipts?.length === 0
      ? 'no gate is running that could confirm it'
      : `${missing.length} of ${count(receipts!.length, 'gate')} did not confirm it within ${options.timeout ?? standardTimeout}`,
    { hint: 'the row is in the table: a gate that starts or reconnects reads it first' },
  )
}

/** What the row does, and how to end it. */
function effectOf({
  id,
  issued_before: before,
  compare,
  expires_at: expires,
}: RevokeResult['row']): string {
  const until = expires instanceof Date ? ` until ${second(expires)}` : ''
  if (!(before instanceof Date))
    return `${until === '' ? 'from now on' : `from now on${until}`}; lift it with \`dropgate lift ${id}\``
  const what = compare === 'auth_time' ? 'sign-ins' : 'tokens issued'
  return `${what} before ${second(before)}${until}; newer ones are not denied; take it back with \`dropgate lift ${id} --forget\``
}

function receiptLine({ host, pid, gate, ms, cuts, may_allow_until: until }: Receipt): string {
  const name = `${host} ${pid} ${gate}`
  return ms === null
    ? `  ${name}: no answer; it may still allow until ${until!.toISOString()}`
    : `  ${name}: in force after ${ms.toFixed(1)} ms, ${cuts} cut`
}
