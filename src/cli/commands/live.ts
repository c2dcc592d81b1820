/** `live`: the open exchanges of the running gate. */
import { Option } from 'commander'
import type { LivePage } from '../../admin/live.ts'
import { GateError } from '../../errors.ts'
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { print, printResult, printTable, withoutEmpty } from '../output.ts'
import { span } from '../times.ts'

type Query = Readonly<Record<string, string | undefined>>

export function addLive(program: StrictCommand): void {
  addCommand(
    program,
    'live',
    'list the open exchanges of the running gate; filters match whole values',
  )
    .option('--issuer <iss>', 'only those of this issuer')
    .option('--subject <sub>', 'only those of this subject')
    .option('--client <id>', 'only those of this client')
    .option('--route <name>', 'only those of this route')
    .addOption(
      new Option('--protocol <protocol>', 'only those of this protocol').choices([
        'http',
        'websocket',
      ]),
    )
    .option('--limit <n>', 'how many', '100')
    .option('--after <next>', 'the next page: the value that the page before printed at its end')
    .action(async (options: CommonOptions & Query) => {
      const { issuer, subject, client, route, protocol, limit, after } = options
      const filter = { issuer, subject, client_id: client, route, protocol }
      const page = await askForPage(options.config, { ...filter, limit, after })
      printResult(options, page, () => {
        printExchanges(page.exchanges)
        if (page.next !== null) print(`more: --after ${page.next}`)
        for (const worker of page.silent_workers) print(`worker ${worker} did not answer`)
      })
    })
}

function printExchanges(exchanges: LivePage['exchanges']): void {
  if (exchanges.length === 0) {
    print('Nothing is open that fits, on this gate.')
    return
  }
  const rows = exchanges.map(({ worker, issuer, age_ms, bytes_in, bytes_out, ...rest }) => ({
    ...rest,
    open: span(age_ms),
    worker,
    issuer,
    bytes_in,
    bytes_out,
  }))
  printTable(withoutEmpty(rows), {
    whole: ['id', 'open'],
    spare: [
      'bytes_in',
      'bytes_out',
      'worker',
      'issuer',
      'session_id',
      'client_id',
      'address',
      'protocol',
    ],
  })
}

/** @throws GateError ERR_USAGE, ERR_NOT_FOUND */
async function askForPage(file: string, query: Query): Promise<LivePage> {
  const { askGate } = await import('../admin.ts')
  const search = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) search.set(name, value)
  }
  const { status, document } = await askGate(file, `/v1/live?${search}`)
  if (status === 200) return document as LivePage
  throw new GateError('ERR_USAGE', 'the gate does not understand this filter', {
    hint: '--limit must be a whole number from 1 to 1000, --after the value that the previous page ended with',
  })
}
