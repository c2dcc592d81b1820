/** `test`: the policy's own tests, by `opa test` and by the engine that decides. */
import { type TestReport, testPolicies } from '../bundle/policy-tests.ts'
import { GateError } from '../errors.ts'
import { print } from './output.ts'

const maxMemoryBytes = 256 << 20

/** @param least Percent of coverage below which it fails. */
export async function test(
  folder: string,
  root: string,
  least: number,
): Promise<TestReport & { readonly enough: boolean }> {
  if (!(least >= 0 && least <= 100))
    throw new GateError('ERR_USAGE', '--threshold is a percentage from 0 to 100')
  const report = await testPolicies({ policies: folder, root, maxMemoryBytes })
  return { ...report, enough: (report.coverage ?? 0) >= least }
}

/** @param least As given to `test`. */
export function printReport({ tests, coverage, uncovered }: TestReport, least: number): void {
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
