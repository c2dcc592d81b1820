/** `build`: policies -> a bundle with the entrypoints that the configuration names; see ../build.ts. */
import type { BuildFlags } from '../build.ts'
import { addCommand, collect, type StrictCommand } from '../command.ts'

export function addBuild(program: StrictCommand): void {
  addCommand(program, 'build', 'check, test and build policies into a bundle, and try it as a gate does (needs opa)')
    .argument('[folder]', 'Rego sources, data and tests (default: policies)')
    .option('--policies <folder>', 'the same as the argument')
    .option('--out <file>', 'the bundle', 'bundles/gate.tar.gz')
    .option('--entrypoint <rule>', 'the rule that decides, such as envoy/authz/allow, in place of those of the configuration; repeat for more', collect)
    .option('--strict', 'findings fail the build: failed or missing tests, what `opa check --strict` and the schema of the input say, format; so do they where the environment has CI')
    .option('--fix', 'format the sources first, as `opa fmt` does')
    .option('--v0-compatible', 'the sources are in the syntax of OPA before 1.0')
    .action(async (folder: string | undefined, options: BuildFlags) => {
      const { build } = await import('../build.ts')
      await build(folder, options)
    })
} // biome-ignore format: one option a line
