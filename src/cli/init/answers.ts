/** What `init` has to know: from options, or from questions on a terminal. Each answer is checked as the configuration is. */
import { createInterface } from 'node:readline/promises'
import { readConfig } from '../../config/load.ts'
import { asGateError, GateError } from '../../errors.ts'
import { checkUpstreams } from '../../upstream/addresses.ts'
import { type Answers, configText, optionOf } from './config-text.ts'
import { logins } from './logins.ts'

/** What was given as options. */
export type Given = Partial<Answers>

interface Question {
  readonly name: keyof Answers
  readonly text: string
  readonly example: string
  readonly standard?: string
}

const questions: readonly Question[] = [
  {
    name: 'issuer',
    text: 'Who issues your tokens? The URL in their claim iss',
    example: 'https://login.example.com',
  },
  {
    name: 'upstream',
    text: 'Where is the service that the gate protects?',
    example: 'http://127.0.0.1:3000',
    standard: 'http://127.0.0.1:3000',
  },
  {
    name: 'database',
    text: 'Which PostgreSQL is for the revocations? Without a login',
    example: 'postgres://127.0.0.1:5432/dropgate',
    standard: 'postgres://127.0.0.1:5432/dropgate',
  },
]

const standard = {
  audience: 'api',
  host: '127.0.0.1',
  port: '8080',
  adminPort: '8081',
  preset: undefined,
} as const

/** @throws GateError ERR_USAGE with every answer that is missing or wrong */
export async function answersFrom(given: Given): Promise<Answers> {
  const missing = questions.filter(({ name }) => given[name] === undefined)
  refuseWrong(given)
  if (missing.length === 0) return complete(given)
  if (!process.stdin.isTTY) {
    const flags = missing.map(({ name }) => flagOf(name))
    throw new GateError('ERR_USAGE', `missing: ${flags.join(', ')}`, {
      hint: `e.g. \`dropgate init ${questions.map(({ name, example }) => `${flagOf(name)} ${example}`).join(' ')}\`; on a terminal it asks for them`,
    })
  }
  return complete({ ...given, ...(await ask(missing)) })
}

async function ask(missing: readonly Question[]): Promise<Given> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr })
  const closed = new Promise<never>((_, reject) => {
    terminal.once('close', () =>
      reject(
        new GateError('ERR_USAGE', 'the input ended before every question was answered', {
          hint: 'nothing was written; answer the questions, or give the answers as options: `dropgate init --help`',
        }),
      ),
    )
  })
  closed.catch(() => {})
  try {
    const answers: { -readonly [name in keyof Answers]?: string } = {}
    for (const { name, text, example, standard } of missing) {
      const shown = standard === undefined ? `e.g. ${example}` : standard
      for (;;) {
        const line = await Promise.race([terminal.question(`${text} [${shown}]: `), closed])
        const answer = line.trim() || (standard ?? '')
        const problem =
          answer === ''
            ? `expected an answer such as ${example}`
            : problemsOf({ [name]: answer }).get(name)
        answers[name] = answer
        if (problem === undefined) break
        process.stderr.write(`  ${problem}\n`)
      }
    }
    return answers
  } finally {
    terminal.close()
  }
}

function refuseWrong(given: Given): void {
  const problems = [...problemsOf(given)]
  if (problems.length === 0) return
  throw new GateError(
    'ERR_USAGE',
    problems.map(([name, problem]) => `${flagOf(name)}: ${problem}`).join('\n'),
    { hint: '`dropgate init --help` says what each option is for' },
  )
}

/** The problems of the given answers; an answer that is not given is taken to be right. */
function problemsOf(given: Given): Map<keyof Answers, string> {
  const found = new Map<keyof Answers, string>()
  for (const [name, answer] of Object.entries(withoutAbsent(given))) {
    // The file would hold a reference to a variable, and the SQL something else.
    if (answer!.includes('${')) found.set(name as keyof Answers, 'expected a value without ${')
  }
  const database = given.database === undefined ? undefined : databaseProblem(given.database)
  if (database !== undefined && !found.has('database')) found.set('database', database)
  const examples = Object.fromEntries(questions.map(({ name, example }) => [name, example]))
  const tried = { ...examples, ...withoutAbsent(given) }
  if (database !== undefined) tried.database = examples.database!
  const passwords = Object.fromEntries(logins.map(({ variable }) => [variable, 'x']))
  try {
    const config = readConfig(
      configText(complete(tried)),
      '.',
      { ...process.env, ...passwords },
      // Not the folder of bundles: it is made later.
      { uses: ['listen', 'admin', 'database', 'issuers', 'routes', 'upstream_networks'] },
    )
    checkUpstreams(config)
  } catch (error) {
    const { problems, message } = asGateError(error)
    if (problems === undefined) found.set('upstream', message)
    for (const { path, message } of problems ?? []) {
      const name = answerAt(path)
      if (!found.has(name)) found.set(name, message)
    }
  }
  return found
}

function answerAt(path: string): keyof Answers {
  const names = Object.keys(optionOf) as (keyof Answers)[]
  return names.find((name) => path.startsWith(optionOf[name])) ?? 'upstream'
}

function databaseProblem(url: string): string | undefined {
  // It stands in a comment of the SQL, too: what follows a line end there would be run.
  if (/[^!-~]/.test(url))
    return 'expected a URL without spaces and line ends: other characters are written like %20'
  if (!/^postgres(?:ql)?:\/\//.test(url))
    return 'expected a URL such as postgres://127.0.0.1:5432/dropgate'
  if (/^[^/]*\/\/[^/?#]*@/.test(url))
    return 'expected a URL without a login and password: init makes a login for each kind of work'
  if (databaseName(url) === undefined)
    return 'expected a URL that ends with the name of the database, such as postgres://127.0.0.1:5432/dropgate'
  return undefined
}

/** The name of the database in a URL; undefined where it has none. */
export function databaseName(url: string): string | undefined {
  const name = /^[^/]*\/\/[^/?#]*\/([^/?#]+)(?:\?|$)/.exec(url)?.[1]
  try {
    return name === undefined ? undefined : decodeURIComponent(name)
  } catch {
    return undefined
  }
}

function complete(given: Given): Answers {
  return { ...standard, ...withoutAbsent(given) } as Answers
}

function withoutAbsent(given: Given): { -readonly [name in keyof Answers]?: string } {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
}

function flagOf(name: keyof Answers): string {
  return name === 'adminPort' ? '--admin-port' : `--${name}`
}
