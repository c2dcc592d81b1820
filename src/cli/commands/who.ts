/** `who`: whether a caller is denied now, by which rows, and by whom they were written; see ../who.ts. */
import { text as readStream } from 'node:stream/consumers'
import { GateError } from '../../errors.ts'
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { printResult } from '../output.ts'
import type { Answer } from '../who.ts'

type WhoOptions = CommonOptions & {
  readonly issuer?: string
  readonly token?: string
  readonly address?: string
}

export function addWho(program: StrictCommand): void {
  addCommand(
    program,
    'who',
    'is this caller revoked now: by which row, since when, by whom; if not, what was lifted or deleted',
  )
    .argument('[subject]', 'claim sub of the tokens')
    .option('--issuer <iss>', 'the issuer of the tokens; without it, any')
    .option('--token <->', 'in place of a subject: - reads a whole token from standard input')
    .option('--address <ip>', 'with --token: the address of the client, for rows by network')
    .addHelpText(
      'after',
      `
A subject alone does not tell which groups, tenant, client, network or claims a request has; rows that name those are
counted. With --token - all rows are compared as a gate does. The token is not sent, stored or printed, and its
signature is not checked.

With --json: subject, issuer, verdict (blocked; cutoff: older tokens are denied; partly: some tokens are denied;
refused: the token itself is not usable; clear), rows (in force, the newest first: id, kind, target, issued_before,
compare, since, until, reason, created_by, unmatched, predicates), unknown (columns -> number of rows), history (what was
done: at, by, action, row_id, target, kind, issued_before, until, reason, source) and token (null, or session_id,
token_id, client_id, issued_at, expires_at, code, message, retry).`,
    )
    .action(async (subject: string | undefined, options: WhoOptions) => {
      const answer = await ask(subject, options)
      const { printAnswer } = await import('../who.ts')
      printResult(options, answer, () => printAnswer(answer))
    })
}

/** @throws GateError ERR_USAGE */
async function ask(subject: string | undefined, options: WhoOptions): Promise<Answer> {
  const { config, issuer, token } = options
  if ((subject === undefined) === (token === undefined)) {
    throw usage(
      subject === undefined ? 'no subject is given' : 'a subject and --token are given together',
      'write `dropgate who SUBJECT`, or `dropgate who --token - < FILE` for one token',
    )
  }
  const { whoHolds, whoIs } = await import('../who.ts')
  if (subject !== undefined) {
    if (options.address !== undefined)
      throw usage(
        '--address is given without --token',
        'whether a network concerns a caller is asked with a token: `dropgate who --token - --address IP < FILE`',
      )
    if (subject === '') throw usage('the subject is empty', 'write the claim sub of the tokens')
    return await whoIs(config, subject, issuer)
  }
  if (token !== '-')
    throw usage(
      '--token takes only -',
      'a token on the command line is seen by other users of the machine: pass it on standard input, `dropgate who --token - < FILE`',
    )
  if (issuer !== undefined)
    throw usage('--issuer is given with --token', 'omit --issuer: the token names its issuer')
  const { readAddress } = await import('../token-check.ts')
  const address = readAddress(options.address)
  const given = (await readStream(process.stdin)).trim()
  if (given === '')
    throw usage('no token on standard input', 'write `dropgate who --token - < FILE`')
  return await whoHolds(config, given, address)
}

function usage(what: string, hint: string): GateError {
  return new GateError('ERR_USAGE', what, { hint })
}
