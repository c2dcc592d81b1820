/** `build`: policies -> a bundle with the entrypoints that the configuration names. */
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import { print, printResult, root } from '../output.ts'

type BuildOptions = CommonOptions & { readonly policies: string; readonly out: string }

export function addBuild(program: StrictCommand): void {
  addCommand(program, 'build', 'check, test and build policies into a bundle (needs opa)')
    .option('--policies <folder>', 'Rego sources and data', 'policies')
    .option('--out <file>', 'the bundle', 'bundles/gate.tar.gz')
    .action(async (options: BuildOptions) => {
      const { buildBundle } = await import('../../bundle/build.ts')
      const { policies, out } = options
      const entrypoints = await entrypointsOf(options.config)
      const done = buildBundle({ policies, out, entrypoints, root })
      printResult(options, done, () => {
        for (const file of done.formatted) print(`formatted ${file}`)
        print(`${done.out}: revision ${done.revision}; tests ${done.tests}`)
      })
    })
}

async function entrypointsOf(file: string): Promise<string[]> {
  const { loadConfig } = await import('../../config/load.ts')
  const uses = ['policy.decision', 'routes.decision'] as const
  const { policy, routes } = loadConfig(file, process.env, uses).config
  return [...new Set([policy.decision, ...routes.map((route) => route.decision)])]
}
