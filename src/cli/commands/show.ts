/** `show`: everything about one row, also about one that is gone. */
import { GateError } from '../../errors.ts'
import type { FoundRow, HistoryEvent, ListedRow } from '../../store/lookup.ts'
import type { Receipt } from '../../store/statements.ts'
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { print, printFields, printResult, printTable } from '../output.ts'
import { readId } from '../row-id.ts'
import { readTimeout, standardTimeout } from '../timeout.ts'
import { moment } from '../times.ts'

type ShowOptions = CommonOptions & { readonly wait?: boolean; readonly timeout?: string }

type Shown = FoundRow & { readonly receipts: readonly Receipt[] }

export function addShow(program: StrictCommand): void {
  addCommand(program, 'show', 'show everything about a revocation, also about one that is gone')
    .argument('<id>')
    .option(
      '--wait',
      'ask every gate whether it has the row in force now, and wait for the answers',
    )
    .option('--timeout <time>', `how long to wait (default: ${standardTimeout})`)
    .addHelpText(
      'after',
      `
With --json: row (as \`list --json\` has it; null when it is gone), gates (one object for each gate that may be serving:
gate, host, pid, ms, cuts, may_allow_until; empty where nobody has asked for receipts within the last hour) and history
(what was done: at, by, action, target, kind, issued_before, until, reason, source; oldest first).`,
    )
    .action(async (given: string, options: ShowOptions) => {
      const id = readId(given)
      if (options.timeout !== undefined && options.wait !== true)
        throw new GateError('ERR_USAGE', '--timeout is given without --wait', {
          hint: 'add --wait, or omit --timeout',
        })
      const { row, history, receipts } = await find(id, options)
      const value = { id, row: row ?? null, gates: receipts, history }
      printResult(options, value, () => printFound(id, { row, history, receipts, canary: false }))
    })
}

/** @throws GateError ERR_NOT_FOUND */
async function find(id: string, options: ShowOptions): Promise<Shown> {
  const { asCommand } = await import('../database.ts')
  const { findRow } = await import('../../store/lookup.ts')
  const { expectReceipts, receiptsOf } = await import('../../store/statements.ts')
  const { awaitReceipts } = await import('../revoke.ts')
  const timeoutMs = readTimeout(options.timeout ?? standardTimeout)
  return await asCommand(options.config, async (client, schema) => {
    const found = await findRow(client, schema, id)
    if (found.row === undefined) {
      if (found.history.length === 0) throw notFound(id, found.canary)
      return { ...found, receipts: [] }
    }
    if (options.wait !== true) {
      const receipts = await receiptsOf(client, schema, id)
      return { ...found, receipts }
    }
    await expectReceipts(client, schema, id)
    const { receipts = [] } = await awaitReceipts(client, schema, id, timeoutMs)
    return { ...found, receipts }
  })
}

function notFound(id: string, canary: boolean): GateError {
  return canary
    ? new GateError(
        'ERR_NOT_FOUND',
        `row ${id} is a canary: it measures how fast rows come into force, and revokes nothing`,
        {
          hint: '`dropgate status` shows what the canaries have measured',
        },
      )
    : new GateError('ERR_NOT_FOUND', `there is no revocation with id ${id}, and none was deleted`, {
        hint: '`dropgate list --all` shows the ids of all revocations; `dropgate who SUBJECT` those of one subject',
      })
}

function printFound(id: string, { row, history, receipts }: Shown): void {
  const now = new Date()
  if (row === undefined) {
    const last = history.at(-1)!
    printFields([
      [`row ${id}`, `is not in the table: ${last.action} ${moment(last.at, now)} by ${last.by}`],
      ['target', last.target ?? undefined],
      ['reason', last.reason ?? undefined],
    ])
  } else {
    const nobody =
      receipts.length > 0
        ? undefined
        : `nobody has waited for this row within the last hour; \`dropgate show ${id} --wait\` asks every gate`
    printFields([[`row ${id}`, stateInWords(row)], ...fieldsOf(row, now), ['gates', nobody]])
    if (receipts.length > 0) printReceipts(receipts)
  }
  print('')
  printTable(
    history.map((event) => eventRow(event, now)),
    { spare: ['reason', 'target'], whole: ['when'] },
  )
}

function stateInWords({ state, unmatched, id }: ListedRow): string {
  const what = {
    block: `a block: it stands until it ends or is lifted; \`dropgate lift ${id}\``,
    cutoff: 'a cutoff: older tokens are refused, newer ones are not',
    expired: 'has ended, and denies nothing',
  }[state]
  return unmatched ? `${what}. No gate can match it, so it denies nobody` : what
}

function fieldsOf(row: ListedRow, now: Date): (readonly [string, string | undefined])[] {
  const { issued_before: before, expires_at: until, event_time: event } = row
  const time = (value: unknown): string | undefined =>
    value instanceof Date ? moment(value, now) : undefined
  return [
    ['target', row.target],
    ['reason', row.reason ?? 'none was given'],
    [
      'written',
      `${moment(row.created_at, now)} by ${row.created_by}${row.source === null ? '' : `, ${row.source}`}`,
    ],
    [row.compare === 'auth_time' ? 'signed in before' : 'issued before', time(before)],
    ['event', time(event)],
    ['until', until === null ? 'no end' : time(until)],
  ]
}

function printReceipts(receipts: readonly Receipt[]): void {
  print('')
  printTable(
    receipts.map(({ gate, host, pid, ms, cuts, may_allow_until: until }) => ({
      gate: gate.slice(0, 8),
      'in force':
        ms === null
          ? `no answer: it may allow until ${until!.toISOString()}`
          : `after ${ms.toFixed(1)} ms`,
      cut: cuts,
      host,
      pid,
    })),
    { spare: ['pid'], whole: ['in force'] },
  )
}

function eventRow(event: HistoryEvent, now: Date): Record<string, unknown> {
  return {
    when: moment(event.at, now),
    by: event.by,
    'what was done': event.action,
    target: event.target,
    reason: event.reason,
  }
}
