/** `test`: the policies' own tests, by `opa test` and by the engine that decides. */
import type { TestReport } from '../../bundle/policy-tests.ts'
import { GateError } from '../../errors.ts'
import { addCommand, type CommonOptions, type ExitWith, type StrictCommand } from '../command.ts'
import { print, printResult, root } from '../output.ts'

const maxMemoryBytes = 256 << 20

type TestOptions = CommonOptions & {
  readonly threshold: string
  readonly v0Compatible?: boolean
}

export function addTest(program: StrictCommand, exitWith: ExitWith): void {
  addCommand(
    program,
    'test',
    'run the policies’ tests on opa and on the gate’s engine, with coverage (needs opa)',
  )
    .argument('[folder]', 'Rego sources, data and tests', 'policies')
    .option('--threshold <percent>', 'fail below this coverage', '0')
    .option('--v0-compatible', 'the sources are in the syntax of OPA before 1.0')
    .action(async (folder: string, options: TestOptions) => {
      const least = Number(options.threshold)
      if (!(least >= 0 && least <= 100))
        throw new GateError('ERR_USAGE', '--threshold must be a percentage from 0 to 100')
      const { testPolicies } = await import('../../bundle/policy-tests.ts')
      const { findingLine } = await import('../../bundle/findings.ts')
      const v0 = options.v0Compatible ?? false
      const report = await testPolicies({ policies: folder, root, maxMemoryBytes, v0 })
      const enough = (report.coverage ?? 0) >= least
      printResult(options, { ...report, enough }, () => {
        for (const finding of report.findings) print(findingLine(finding))
        printReport(report, least)
      })
      if (!report.passed || !enough) exitWith(1)
    })
}

/** @param least Percent of coverage below which the command fails. */
function printReport({ tests, coverage, uncovered }: TestReport, least: number): void {
  for (const { name, opa, engine, message } of tests) {
    if (opa === 'fail') print(`✗ ${name}: fails on opa`)
    if (engine === 'fail')
      print(
        `✗ ${name}: ${opa === 'fail' ? 'fails' : 'passes on opa, fails'} on the gate’s engine: ${message}`,
      )
  }
  if (coverage !== undefined && coverage < least) {
    print(`coverage is below --threshold ${least}; no test reaches ${uncovered.join(', ')}`)
  }
  const passed = tests.filter(({ opa, engine }) => opa === 'pass' && engine === 'pass').length
  const skipped = tests.filter(({ opa }) => opa === 'skip').length
  print(
    `${passed} of ${tests.length - skipped} tests pass on opa and on the gate’s engine${skipped === 0 ? '' : `, ${skipped} skipped`}${coverage === undefined ? '' : `; coverage ${coverage.toFixed(1)} %`}`,
  )
}
