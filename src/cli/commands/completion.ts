/** `completion`: prints the script that completes dropgate's commands in a shell; see ../completion.ts. */
import { Argument } from 'commander'
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import type { Shell } from '../completion.ts'
import { printResult } from '../output.ts'

const shells: readonly Shell[] = ['bash', 'zsh', 'fish']

export function addCompletion(program: StrictCommand): void {
  addCommand(program, 'completion', 'print a script that completes commands and options in a shell')
    .addArgument(new Argument('<shell>', 'which shell').choices(shells))
    .addHelpText(
      'after',
      `
For this shell only:      source <(dropgate completion bash)
                          dropgate completion fish | source
For every new shell:      dropgate completion bash > ~/.local/share/bash-completion/completions/dropgate
                          dropgate completion zsh > a folder of $fpath, as _dropgate
                          dropgate completion fish > ~/.config/fish/completions/dropgate.fish`,
    )
    .action(async (shell: Shell, options: CommonOptions) => {
      const { completionScript } = await import('../completion.ts')
      const script = completionScript(shell, program)
      printResult(options, { shell, script }, () => process.stdout.write(script))
    })
}
