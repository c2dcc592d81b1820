/** `who`: whether a caller is denied now, by which rows, and what was done to the rows that named the caller before. */
import {
  type ConcerningRow,
  type HistoryEvent,
  historyOfSubject,
  rowsOnSubject,
  rowsOnTexts,
} from '../store/lookup.ts'
import { asCommand } from './database.ts'
import { commandName, count, print, printFields, printTable } from './output.ts'
import { plain } from './table.ts'
import { moment } from './times.ts'
import { isNameable, readToken, rowsOnToken } from './token-check.ts'

/**
 * `blocked`: denied until a row is lifted or ends. `cutoff`: tokens from before a moment are denied. `partly`: some of the
 * caller's tokens are denied. `refused`: a gate refuses the token before it asks for revocations. `clear`: none of these.
 */
type Verdict = 'blocked' | 'cutoff' | 'partly' | 'refused' | 'clear'

export interface Answer {
  readonly subject: string
  readonly issuer: string | null
  readonly verdict: Verdict
  /** The rows in force that concern the caller, the newest first. */
  readonly rows: readonly ConcerningRow[]
  /** Columns -> number of rows in force that name them, of which it is not known here whether they concern the caller. */
  readonly unknown: Readonly<Record<string, number>>
  /** What was done to rows that named the subject, oldest first; empty where the caller is blocked. */
  readonly history: readonly HistoryEvent[]
  /** What the token says of itself; null where none was given. */
  readonly token: TokenFacts | null
}

interface TokenFacts {
  readonly session_id: string | null
  readonly token_id: string | null
  readonly client_id: string | null
  readonly issued_at: Date
  readonly expires_at: Date
  /** Why a gate refuses it before it asks for revocations, null where it does not. */
  readonly code: string | null
  readonly message: string | null
  /** A token issued a moment later would not be denied. */
  readonly retry: boolean
}

export async function whoIs(
  file: string,
  subject: string,
  issuer: string | undefined,
): Promise<Answer> {
  return await asCommand(file, async (client, schema) => {
    const { rows, others } = await rowsOnSubject(client, schema, subject, issuer)
    const verdict = verdictOf(rows, issuer)
    return {
      subject,
      issuer: issuer ?? null,
      verdict,
      rows,
      unknown: others,
      history: verdict === 'blocked' ? [] : await historyOfSubject(client, schema, subject, issuer),
      token: null,
    }
  })
}

/** What a row does to all tokens of the subject together. */
function effectOf(row: ConcerningRow, issuer: string | undefined): Verdict {
  const { predicates } = row
  if (row.unmatched) return 'clear'
  const further = Object.keys(predicates).filter(
    (column) => column !== 'subject' && column !== 'everyone' && column !== 'issuer',
  )
  const otherIssuers = predicates.issuer !== undefined && issuer === undefined
  if (further.length > 0 || otherIssuers) return 'partly'
  return row.kind === 'block' ? 'blocked' : 'cutoff'
}

function verdictOf(rows: readonly ConcerningRow[], issuer: string | undefined): Verdict {
  const effects = new Set(rows.map((row) => effectOf(row, issuer)))
  const order: readonly Verdict[] = ['blocked', 'cutoff', 'partly']
  return order.find((effect) => effects.has(effect)) ?? 'clear'
}

/** @param address Address of the client, for rows that name networks. */
export async function whoHolds(
  file: string,
  token: string,
  address: string | undefined,
): Promise<Answer> {
  return await asCommand(file, async (client, schema) => {
    const texts = readToken(file, token, []).texts
    const { rows, now } = await rowsOnTexts(client, schema, texts)
    const pointers = rows.flatMap(({ predicates }) => Object.keys(predicates.claims ?? {}))
    const read = readToken(file, token, [...new Set(pointers)])
    const { principal, refusal, claims } = read
    const subject = String(claims.sub)
    const issuer = String(claims.iss)
    const concerned =
      principal === undefined ? undefined : rowsOnToken(rows, read, principal, address, now)
    const denying = new Map(concerned?.denying.map(({ id, retry }) => [id, retry]))
    const depending = rows.filter(({ id }) => concerned?.depending.includes(id))
    const verdict = refusal !== undefined ? 'refused' : denying.size > 0 ? 'blocked' : 'clear'
    const history =
      verdict === 'blocked' || !isNameable(subject)
        ? []
        : await historyOfSubject(client, schema, subject, issuer)
    return {
      subject,
      issuer,
      verdict,
      rows: rows.filter(({ id }) => denying.has(id)),
      unknown: countByColumns(depending),
      history,
      token: {
        session_id: principal?.sessionId ?? null,
        token_id: principal?.tokenId ?? null,
        client_id: principal?.clientId ?? null,
        issued_at: new Date(Number(claims.iat) * 1000),
        expires_at: new Date(Number(claims.exp) * 1000),
        code: refusal?.code ?? null,
        message: refusal === undefined ? null : `${refusal.title} ${refusal.cause ?? ''}`.trim(),
        retry: denying.size > 0 && [...denying.values()].every((retry) => retry),
      },
    }
  })
}

function countByColumns(rows: readonly ConcerningRow[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { predicates } of rows) {
    const names = Object.keys(predicates)
      .filter((column) => column !== 'issuer')
      .sort()
      .join(' and ')
    counts[names] = (counts[names] ?? 0) + 1
  }
  return counts
}

export function printAnswer(answer: Answer): void {
  const now = new Date()
  print(plain(sentence(answer)))
  if (answer.token !== null) printToken(answer, now)
  for (const row of answer.rows) printRow(row, now)
  printUnknown(answer)
  const blocks = answer.rows.filter(({ kind, unmatched }) => kind === 'block' && !unmatched)
  if (blocks.length > 0) {
    const commands = blocks.map(({ id }) => `${commandName()} lift ${id}`)
    print(`\nTo end ${blocks.length === 1 ? 'the block' : 'the blocks'}: ${commands.join('; ')}`)
  }
  if (answer.history.length > 0) {
    print(`\nWhat was done to rows that name ${plain(answer.subject)}:`)
    printTable(
      answer.history.map(({ at, by, action, row_id, target, reason }) => ({
        when: moment(at, now),
        row: row_id,
        'what was done': action,
        by,
        target,
        reason,
      })),
      { spare: ['reason', 'target'], whole: ['when'] },
    )
  }
}

function sentence({ subject, issuer, verdict, rows, token }: Answer): string {
  const who = issuer === null ? subject : `${subject} of ${issuer}`
  if (token !== null) {
    const said: Readonly<Record<string, string>> = {
      blocked: `This token of ${who} is denied by ${count(rows.length, 'row')}.`,
      refused: `This token of ${who} is refused whatever the rows say: ${token.code}, ${token.message}`,
      clear: `No row denies this token of ${who}.`,
    }
    return said[verdict]!
  }
  return {
    blocked: `${who} is blocked.`,
    cutoff: `${who} is not blocked, but tokens from before a cutoff are denied.`,
    partly: `${who} is not blocked as a whole, but some tokens are denied.`,
    refused: '',
    clear: `${who} is not blocked: no row in force names this subject, the issuer as a whole or everyone.`,
  }[verdict]
}

function printToken({ token }: Answer, now: Date): void {
  const { issued_at, expires_at, session_id, client_id, retry } = token!
  const time = (at: Date): string | undefined =>
    Number.isNaN(at.getTime()) ? undefined : moment(at, now)
  printFields([
    ['issued', time(issued_at)],
    ['expires', time(expires_at)],
    ['session', session_id ?? undefined],
    ['client', client_id ?? undefined],
    ['not checked', 'signature, audience, and whether a route and the policy allow it'],
    ...(retry
      ? [
          [
            'note',
            'it was issued within the tolerance of a cutoff: one issued a moment later is not denied',
          ] as const,
        ]
      : []),
  ])
}

function printRow(row: ConcerningRow, now: Date): void {
  const { id, kind, target, issued_before, compare, since, until, reason, created_by } = row
  const before =
    issued_before === null
      ? ''
      : `, ${compare === 'auth_time' ? 'signed in' : 'issued'} before ${moment(issued_before, now)}`
  print('')
  printFields([
    [`row ${id}`, `${kind}: ${target}${before}${row.unmatched ? ' (no gate can match it)' : ''}`],
    [kind === 'block' ? 'since' : 'written', `${moment(since, now)} by ${created_by}`],
    ['until', until === null ? undefined : moment(until, now)],
    ['reason', reason ?? 'none was given'],
  ])
}

/** Words for columns. */
const plural: Readonly<Record<string, string>> = {
  session_id: 'a session',
  token_id: 'a token',
  token_hash: 'a token hash',
  client_id: 'a client',
  tenant: 'a tenant',
  group_value: 'a group',
  key_thumbprint: 'a signing key',
  client_cert: 'a client certificate',
  proof_key: 'a proof key',
  device_id: 'a device',
  network: 'a network',
  claims: 'claims',
  subject: 'the subject',
  except_session_id: 'a session to spare',
  everyone: 'everyone',
}

function printUnknown({ unknown, token }: Answer): void {
  const parts = Object.entries(unknown).map(
    ([columns, rows]) =>
      `${rows} by ${columns
        .split(' and ')
        .map((column) => plural[column] ?? column)
        .join(' and ')}`,
  )
  if (parts.length === 0) return
  const how =
    token === null
      ? `pass the token: ${commandName()} who --token - < FILE`
      : 'a network needs --address; a signing key, a client certificate or (without revocation.pepper_file) a hash cannot be seen in a token'
  print(`\nNot known here: rows in force that may concern the same tokens: ${parts.join(', ')}.`)
  print(`  ${how}`)
}
