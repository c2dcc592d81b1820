/** `eval`: its options; ../eval.ts decides. */
import { addCommand, type CommonOptions, type ExitWith, type StrictCommand } from '../command.ts'
import type { EvalRequest } from '../eval.ts'
import { printResult } from '../output.ts'

type EvalOptions = CommonOptions &
  Omit<EvalRequest, 'headers'> & { readonly header?: readonly string[] }

export function addEval(program: StrictCommand, exitWith: ExitWith): void {
  addCommand(
    program,
    'eval',
    'decide a request, given as flags or as a whole input, without a gate',
  )
    .option('--bundle <file>', 'the bundle; without it the one in policy.bundles')
    .option('--decision <entrypoint>', 'the entrypoint; without it the one of the route')
    .option('--input <file>', 'a whole input as JSON; - for standard input')
    .option('--method <method>', 'method of the request', 'GET')
    .option('--path <target>', 'path and query', '/')
    .option('--host <host>', 'host, with its port if it has one', 'localhost')
    .option('--header <line...>', 'name: value; may be repeated')
    .option('--body <text>', 'JSON unless a content-type header says otherwise')
    .option('--subject <sub>', 'the caller; without --subject and --claims there is no caller')
    .option('--claims <json>', 'claims of the caller’s token')
    .action(async (options: EvalOptions) => {
      const { evaluate, printEvaluation } = await import('../eval.ts')
      const { bundle, decision, input, method, path, host, body, subject, claims } = options
      const request = { bundle, decision, input, method, path, host, headers: options.header ?? [] }
      const found = await evaluate(options.config, { ...request, body, subject, claims })
      printResult(options, found, () => printEvaluation(found))
      if (found.detail !== undefined) exitWith(1)
    })
}
