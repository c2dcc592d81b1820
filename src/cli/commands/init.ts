/** `init`: its options, and its answer; ../init/init.ts writes the files. */
import { addCommand, type CommonOptions, type StrictCommand } from '../command.ts'
import type { Given } from '../init/answers.ts'
import type { InitOptions } from '../init/init.ts'
import { print, printResult } from '../output.ts'

export function addInit(program: StrictCommand): void {
  addCommand(
    program,
    'init',
    'write the configuration of a first gate, and the SQL that makes its logins in PostgreSQL',
  )
    .option('--issuer <url>', 'issuer of the tokens, as in their claim iss')
    .option('--upstream <origin>', 'the service that the gate protects, e.g. http://127.0.0.1:3000')
    .option(
      '--database <url>',
      'PostgreSQL for the revocations, without a login, e.g. postgres://127.0.0.1:5432/dropgate',
    )
    .option('--audience <name>', 'audience of the tokens, as in their claim aud (default: api)')
    .option(
      '--preset <name>',
      'provider of the tokens, such as keycloak, entra, okta, auth0 or cognito',
    )
    .option('--host <address>', 'address for clients (default: 127.0.0.1)')
    .option('--port <number>', 'port for clients (default: 8080)')
    .option('--admin-port <number>', 'port for operators (default: 8081)')
    .option('--no-policies', 'write no starter policy')
    .option('--force', 'overwrite files that exist; passwords are kept')
    .action(
      async (options: CommonOptions & Given & Omit<InitOptions, 'force'> & { force?: boolean }) => {
        const { init } = await import('../init/init.ts')
        const { config, policies, force = false, ...given } = options
        const done = await init({ config, policies, force }, answersOf(given))
        printResult(options, done, () => {
          print(`made ${done.files.join(', ')}`)
          print('dropgate.env holds the passwords: keep it out of version control.\n')
          print(
            'Next, in this order; the first line is for an administrator of the PostgreSQL server:\n',
          )
          for (const line of done.next) print(`  ${line}`)
        })
      },
    )
}

function answersOf({
  issuer,
  upstream,
  database,
  audience,
  preset,
  host,
  port,
  adminPort,
}: Given): Given {
  return { issuer, upstream, database, audience, preset, host, port, adminPort } as Given
}
