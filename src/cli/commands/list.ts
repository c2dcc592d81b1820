/** `list`: the revocations in the table, the newest first, and filters; see store/lookup.ts. */
import { text as readStream } from 'node:stream/consumers'
import { GateError } from '../../errors.ts'
import type { ListedRow } from '../../store/lookup.ts'
import { addCommand, type CommonOptions, collect, type StrictCommand } from '../command.ts'
import { print, printResult, printTable, withoutEmpty } from '../output.ts'
import type { TargetOptions } from '../target.ts'
import { minute } from '../times.ts'

type ListOptions = CommonOptions &
  TargetOptions & {
    readonly active?: boolean
    readonly all?: boolean
    readonly unmatched?: boolean
    readonly by?: string
    readonly since?: string
    readonly limit: string
  }

export function addList(program: StrictCommand): void {
  const command = addCommand(
    program,
    'list',
    'list revocations, the newest first; filters given together must all match',
  )
  for (const [flags, what] of filters) command.option(flags, what)
  command
    .option('--claim <pointer=text>', 'rows that name this claim', collect)
    .option('--everyone', 'rows for everyone')
    .option('--active', 'only rows that deny now: this is the default')
    .option('--all', 'also rows whose end has passed')
    .option('--unmatched', 'only rows that no gate can match')
    .option('--by <login>', 'only rows that this login of the database has written')
    .option('--since <time>', 'only rows written since: a time, or a duration such as 2h')
    .option('--limit <n>', 'how many', '50')
    .addHelpText(
      'after',
      `
With --json: a list of rows, each with the columns of the table and
  state      block, cutoff or expired
  target     whom the row hits, in words
  unmatched  true if no gate can match it`,
    )
    .action(async (options: ListOptions) => {
      const limit = readLimit(options.limit)
      if (options.active && options.all)
        throw new GateError('ERR_USAGE', '--active and --all are given together', {
          hint: 'omit --active for all rows, or --all for those that deny now',
        })
      // One more than is shown tells whether there are more.
      const rows = await findRows(options, limit + 1)
      const shown = rows.slice(0, limit)
      printResult(options, shown, () => printRows(shown, rows.length > limit))
    })
}

/** Filters by one column each; `revoke` explains what they name. */
const filters = [
  ['--subject <sub>', 'rows that name this subject'],
  ['--session <sid>', 'rows that name this session'],
  ['--token <jti>', 'rows that name this token; - reads a whole token from standard input'],
  ['--client <id>', 'rows that name this client'],
  ['--tenant <id>', 'rows that name this tenant'],
  ['--group <name>', 'rows that name this group'],
  ['--key <thumbprint>', 'rows that name this signing key'],
  ['--client-cert <thumbprint>', 'rows that name this client certificate'],
  ['--proof-key <thumbprint>', 'rows that name this proof key'],
  ['--device <id>', 'rows that name this device'],
  ['--network <cidr>', 'rows for a network that contains this network or address'],
  ['--issuer <iss>', 'rows that name this issuer'],
] as const

function readLimit(text: string): number {
  if (/^[1-9]\d{0,5}$/.test(text)) return Number(text)
  throw new GateError('ERR_USAGE', `--limit ${text} is not a whole number from 1 to 999999`, {
    hint: 'write for example --limit 200',
  })
}

async function findRows(options: ListOptions, limit: number): Promise<ListedRow[]> {
  const { listRevocations } = await import('../../store/lookup.ts')
  const { asCommand } = await import('../database.ts')
  const { parseTarget } = await import('../target.ts')
  const { readPepperFile } = await import('../peppers.ts')
  const peppers = options.token === '-' ? readPepperFile(options.config) : []
  const { expires_at: _, ...target } = await parseTarget(options, peppers, () =>
    readStream(process.stdin),
  )
  const { all: expired = false, unmatched = false, by } = options
  const filter = { target, expired, unmatched, by, since: sinceOf(options.since), limit }
  return await asCommand(options.config, (client, schema) =>
    listRevocations(client, schema, filter),
  )
}

function sinceOf(text: string | undefined): { ago: string } | { time: string } | undefined {
  if (text === undefined) return undefined
  const [, digits, unit] = /^(\d{1,6})(s|m|h|d)$/.exec(text) ?? []
  const units: Readonly<Record<string, string>> = {
    s: 'seconds',
    m: 'minutes',
    h: 'hours',
    d: 'days',
  }
  return digits === undefined ? { time: text } : { ago: `${digits} ${units[unit!]}` }
}

function printRows(rows: readonly ListedRow[], more: boolean): void {
  const shown = rows.map((row) => ({
    id: row.id,
    state: row.unmatched ? `${row.state}, unmatched` : row.state,
    target: row.target,
    written: minute(row.created_at),
    'issued before': row.issued_before === null ? null : minute(row.issued_before),
    until: row.expires_at === null ? null : minute(row.expires_at),
    by: row.created_by,
    reason: row.reason,
    source: row.source,
  }))
  printTable(withoutEmpty(shown), {
    spare: ['source', 'by', 'written', 'until', 'issued before'],
  })
  if (more) print(`more rows than --limit ${rows.length}`)
}
