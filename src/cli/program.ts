/** The commands: names, options, help. What each does is in the files beside this one. */
import { readFileSync } from 'node:fs'
import { text as readStream } from 'node:stream/consumers'
import { type Command, CommanderError, Option } from 'commander'
import { buildBundle } from '../bundle/build.ts'
import { loadConfig } from '../config/load.ts'
import { asGateError, GateError } from '../errors.ts'
import { migrate } from '../store/migrate.ts'
import type { Receipt } from '../store/statements.ts'
import { collect, StrictCommand } from './command.ts'
import { databaseUrl } from './database.ts'
import { demo } from './demo/demo.ts'
import { type EvalRequest, evaluate, printEvaluated } from './eval.ts'
import { cut, live, revokeCommand } from './live.ts'
import { count, print, printError, printJson, printTable } from './output.ts'
import { purge } from './purge.ts'
import { lift, list, type RevokeOptions, revoke, sql, standardTimeout } from './revoke.ts'
import { checkConfig, serve } from './serve.ts'
import { status } from './status.ts'
import { printReport, test } from './test.ts'

interface Common {
  readonly config: string
  readonly json?: boolean
}

const root = new URL('../../', import.meta.url).pathname

/** @param args Without node and script. @returns the exit status: 0 done, 1 failed, 2 wrong use. */
export async function runCommand(args: readonly string[]): Promise<number> {
  const json = args.includes('--json')
  let exit = 0
  const program = makeProgram((code) => {
    exit = code
  })
  try {
    await program.parseAsync([...args], { from: 'user' })
    return exit
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return 0
      // A command that has only others below it: its help is printed already.
      if (error.code === 'commander.help') return 2
      return printError(
        new GateError('ERR_USAGE', error.message.replace(/^error: /, ''), {
          hint: 'dropgate --help, or dropgate COMMAND --help',
        }),
        json,
      )
    }
    const known = asGateError(error)
    if (known.code === 'ERR_INTERNAL') process.stderr.write(`${(error as Error).stack}\n`)
    return printError(known, json)
  }
}

/** @param exitWith Takes the exit status of a command that did its work and has more to say than that. */
export function makeProgram(exitWith: (code: number) => void): Command {
  const program = new StrictCommand('dropgate')
    .description('A policy-as-code access proxy: a revocation takes effect everywhere at once.')
    .version(version())
  // Before the commands are added: they inherit it.
  program.exitOverride().configureOutput({ outputError: () => {} })
  const command = (name: string, description: string): StrictCommand =>
    program
      .command(name)
      .description(description)
      .option('--config <file>', 'configuration file', 'dropgate.yaml')
      .option('--json', 'results and errors as JSON')
  const show = (options: Common, value: unknown, text: () => void): void => {
    if (options.json) printJson(value)
    else text()
  }

  command('serve', 'run a gate until SIGTERM').action(async (options: Common) => {
    exitWith(await serve(options.config))
  })

  program
    .command('config')
    .description('about the configuration')
    .command('check')
    .description('say everything that is wrong with the configuration; start nothing')
    .option('--config <file>', 'configuration file', 'dropgate.yaml')
    .option('--json', 'results and errors as JSON')
    .action((options: Common) => {
      const found = checkConfig(options.config)
      show(options, found, () =>
        print(
          `${found.file}: ${count(found.routes, 'route')}, ${count(found.issuers, 'issuer')}, no problem`,
        ),
      )
    })

  command('migrate', 'make or update the tables, roles and functions').action(
    async (options: Common) => {
      const { config } = loadConfig(options.config, process.env, [
        'database.migrate_url',
        'database.embedded',
        'database.schema',
        'database.role_prefix',
      ])
      const { schema, role_prefix: rolePrefix } = config.database
      const done = await migrate(databaseUrl(config, 'migrate_url'), { schema, rolePrefix })
      show(options, done, () =>
        print(done.applied.length === 0 ? 'nothing to do' : `applied ${done.applied.join(', ')}`),
      )
    },
  )

  command('sql', 'run one statement as the login of the commands: a revoker and lifter')
    .argument('<statement>')
    .action(async (statement: string, options: Common) => {
      const result = await sql(options.config, statement)
      show(options, result, () => {
        if (result.rows.length > 0 || result.command === 'SELECT') printTable(result.rows)
        else print(`${result.command} ${result.count ?? ''}`.trim())
      })
    })

  command('revoke', 'insert a revocation; options given together must all match')
    .repeatHint('one revocation matches what all its options say together: for two, run it twice')
    .option('--subject <sub>', 'claim sub, also that of an actor')
    .option('--session <sid>', 'session id')
    .option(
      '--token <jti>',
      'token id; - reads a whole token from standard input and sends its hash',
    )
    .option('--client <id>', 'client id')
    .option('--tenant <id>', 'tenant')
    .option('--group <name>', 'one of the groups')
    .option('--key <thumbprint>', 'tokens signed with this key (RFC 7638)')
    .option('--client-cert <thumbprint>', 'client certificate of the connection (SHA-256)')
    .option('--proof-key <thumbprint>', 'certificate that the token is bound to (cnf, SHA-256)')
    .option('--device <id>', 'device')
    .option(
      '--network <cidr>',
      'address of the client (wider than /8 or IPv6 /16: break-glass role)',
    )
    .option(
      '--claim <pointer=text>',
      'claim; /pointer:=JSON for a number or boolean; for more claims, once each',
      collect,
    )
    .option(
      '--issuer <iss>',
      'only tokens of this issuer (alone: all of them; needs the break-glass role)',
    )
    .option('--everyone', 'all tokens (needs the break-glass role)')
    .option('--issued-before <time>', 'a cutoff: tokens issued before this; without it a block')
    .option('--signed-in-before <time>', 'a cutoff on claim auth_time: who signed in before this')
    .option('--except-session <sid>', 'but not this session')
    .option(
      '--event-time <time>',
      "a cutoff at what happened then by the issuer's clock: no skew is added",
    )
    .option('--expires <time>', 'when the revocation ends by itself')
    .option('--reason <text>', 'why')
    .option('--force', 'insert it also where no gate can match it')
    .option('--wait', 'until every gate has it in force; exit status 1 if one does not say so')
    .option('--timeout <time>', `how long to wait (default: ${standardTimeout})`)
    .action(async (options: Common & RevokeOptions) => {
      const read = (): Promise<string> => readStream(process.stdin)
      const { row, receipts } = await revoke(options.config, options, read)
      const missing = receipts?.filter(({ ms }) => ms === null) ?? []
      const value =
        receipts === undefined
          ? row
          : { ...row, receipts: receipts.filter(({ ms }) => ms !== null), missing }
      show(options, value, () => {
        print(`revocation ${row.id}`)
        for (const receipt of receipts ?? []) print(receiptLine(receipt))
      })
      if (missing.length === 0 && receipts?.length !== 0) return
      throw new GateError(
        'ERR_TIMEOUT',
        receipts?.length === 0
          ? 'no gate is running that could confirm it'
          : `${missing.length} of ${count(receipts!.length, 'gate')} did not confirm it within ${options.timeout ?? standardTimeout}`,
        { hint: 'the row is in the table; a gate that comes, or comes back, reads it first' },
      )
    })

  command('lift', 'end a block; tokens issued until now stay dead')
    .argument('<id>')
    .option('--forget', 'delete the row instead: earlier tokens live again')
    .action(async (id: string, options: Common & { forget?: boolean }) => {
      const { row, wasBlock } = await lift(options.config, id, options.forget === true)
      show(options, row, () =>
        print(
          options.forget
            ? `deleted revocation ${row.id}`
            : wasBlock
              ? `lifted revocation ${row.id}; it is a cutoff now`
              : `revocation ${row.id} was a cutoff already: there is nothing to lift`,
        ),
      )
    })

  command('list', 'the newest revocations')
    .option('--limit <n>', 'how many', '50')
    .action(async (options: Common & { limit: string }) => {
      const rows = await list(options.config, options.limit)
      show(options, rows, () => printTable(rows.map(withoutEmpty(rows))))
    })

  command('live', 'what is open in the running gate; filters must be equal')
    .option('--issuer <iss>')
    .option('--subject <sub>')
    .option('--client <id>')
    .option('--route <name>')
    .addOption(new Option('--protocol <protocol>').choices(['http', 'websocket']))
    .option('--limit <n>', 'how many', '100')
    .option('--after <next>', 'go on behind a page')
    .action(async (options: Common & Record<string, string | undefined>) => {
      const { issuer, subject, client, route, protocol, limit, after } = options
      const filter = { issuer, subject, client_id: client, route, protocol }
      const page = await live(options.config, { ...filter, limit, after })
      show(options, page, () => {
        const rows = page.exchanges.map((entry) => ({ ...entry }))
        printTable(rows.map(withoutEmpty(rows)))
        if (page.next !== null) print(`more: --after ${page.next}`)
        for (const worker of page.silent_workers) print(`worker ${worker} did not answer`)
      })
    })

  command('cut', 'end what is open under this id; its caller may come back')
    .argument('<id>')
    .action(async (id: string, options: Common) => {
      const done = await cut(options.config, id)
      show(options, done, () => {
        print(`cut ${done.cut.id}: ${done.cut.protocol} on route ${done.cut.route}`)
        if (done.row !== null) print(`to keep it from coming back: ${revokeCommand(done.row)}`)
      })
    })

  command('purge', 'delete revocations that are provably dead').action(async (options: Common) => {
    const done = await purge(options.config)
    show(options, done, () =>
      print(
        `deleted ${count(done.revocations, 'revocation')} and ${count(done.tombs, 'tombstone')}`,
      ),
    )
  })

  command('status', 'what the running gate says of itself, and which others there are').action(
    async (options: Common) => {
      const found = await status(options.config)
      show(options, found, () => print(JSON.stringify(found, null, 2)))
      if (!found.ready) exitWith(1)
    },
  )

  command('build', 'check, test and build policies into a bundle (needs opa)')
    .option('--policies <folder>', 'Rego sources and data', 'policies')
    .option('--out <file>', 'the bundle', 'bundles/gate.tar.gz')
    .action((options: Common & { policies: string; out: string }) => {
      const uses = ['policy.decision', 'routes.decision'] as const
      const { config } = loadConfig(options.config, process.env, uses)
      const entrypoints = [
        ...new Set([config.policy.decision, ...config.routes.map((route) => route.decision)]),
      ]
      const built = buildBundle({ policies: options.policies, out: options.out, entrypoints, root })
      show(options, built, () => {
        for (const file of built.formatted) print(`formatted ${file}`)
        print(`${built.out}: revision ${built.revision}; tests ${built.tests}`)
      })
    })

  command('test', 'the policies’ tests on opa and on the gate’s engine, with coverage (needs opa)')
    .argument('[folder]', 'Rego sources, data and tests', 'policies')
    .option('--threshold <percent>', 'fail below this coverage', '0')
    .action(async (folder: string, options: Common & { threshold: string }) => {
      const least = Number(options.threshold)
      const report = await test(folder, root, least)
      show(options, report, () => printReport(report, least))
      if (!report.passed || !report.enough) exitWith(1)
    })

  command('eval', 'decide a request, given as flags or as a whole input, without a gate')
    .option('--bundle <file>', 'the bundle; else the one in policy.bundles')
    .option('--decision <entrypoint>', 'the entrypoint; else that of the route')
    .option('--input <file>', 'a whole input as JSON; - for standard input')
    .option('--method <method>', 'of the request', 'GET')
    .option('--path <target>', 'path and query', '/')
    .option('--host <host>', 'host, with port where it has one', 'localhost')
    .option('--header <line...>', 'name: value; may be repeated')
    .option('--body <text>', 'JSON unless a content-type header says otherwise')
    .option('--subject <sub>', 'the caller; without it and --claims there is none')
    .option('--claims <json>', 'claims of the caller’s token')
    .action(async (options: Common & Partial<EvalRequest> & { header?: string[] }) => {
      const { header = [], method = 'GET', path = '/', host = 'localhost' } = options
      const { bundle, decision, input, body, subject, claims } = options
      const request = { bundle, decision, input, method, path, host, headers: header }
      const found = await evaluate(options.config, { ...request, body, subject, claims })
      show(options, found, () => printEvaluated(found))
      if (found.detail !== undefined) exitWith(1)
    })

  command('demo', 'a gate with an own PostgreSQL, issuer and upstream, for trying it out').action(
    async (options: Common) => {
      exitWith(await demo(options.config))
    },
  )
  return program
}

function receiptLine({ host, pid, gate, ms, cuts, may_allow_until: until }: Receipt): string {
  const name = `${host} ${pid} ${gate}`
  return ms === null
    ? `  ${name}: no answer; it may still allow until ${until!.toISOString()}`
    : `  ${name}: in force after ${ms.toFixed(1)} ms, ${cuts} cut`
}

/** A table for people has no columns in which nothing stands. */
function withoutEmpty(rows: readonly Record<string, unknown>[]) {
  const used = Object.keys(rows[0] ?? {}).filter((column) =>
    rows.some((row) => row[column] !== null && row[column] !== false),
  )
  return (row: Record<string, unknown>): Record<string, unknown> =>
    Object.fromEntries(used.map((column) => [column, row[column]]))
}

function version(): string {
  return (JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { version: string }).version
}
