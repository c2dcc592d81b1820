/**
 * Coverage-guided fuzzing of the target, the host, the headers and the token's shape beside their test oracles. The feedback
 * is V8's own block coverage of our sources: an input that reaches a block for the first time joins the corpus that
 * later inputs are bred from. `SECONDS` (for each of the four) and `SEED` may be given.
 *
 * @jazzer.js/core 4.0.0 would do this natively, but its binary needs glibc 2.38, which Debian 12 does not have.
 */
import { Session } from 'node:inspector/promises'
import { seeded, seedOf } from '../harness/wait.ts'
import { judgeHeaders, judgeHost, judgeTarget, judgeToken } from '../oracles/judge.ts'
import { headerNames, headerValues, hostWords, jsonWords, targetWords } from '../oracles/words.ts'

interface Subject {
  readonly name: string
  /** The source whose blocks are counted. */
  readonly sources: RegExp
  readonly words: readonly string[]
  readonly first: readonly string[]
  readonly judge: (input: string) => string | undefined
}

const part = (text: string): string => Buffer.from(text, 'latin1').toString('base64url')

const subjects: readonly Subject[] = [
  {
    name: 'target',
    sources: /\/src\/route\/target\.ts$/,
    words: targetWords,
    first: ['/', '*', '/a/b?c=d', 'http://api.example.com/a', '/a%2fb;c'],
    judge: (input) => judgeTarget(input.length % 7 === 0 ? 'OPTIONS' : 'GET', input),
  },
  {
    name: 'host',
    sources: /\/src\/route\/target\.ts$/,
    words: hostWords,
    first: ['a.example', '127.0.0.1:80', '[::1]:8080', '[2001:db8::1]'],
    judge: judgeHost,
  },
  {
    name: 'headers',
    sources: /\/src\/(?:listener|upstream)\/headers\.ts$/,
    words: [...headerNames, ...headerValues, '\x01', '\x02'],
    // \x01 ends a header, \x02 its name: neither may be in one.
    first: ['host\x02a\x01x-a\x021', 'host\x02a\x01connection\x02x-b\x01x-b\x021', 'host\x02a\x01transfer-encoding\x02chunked'],
    judge: (input) => {
      const pairs = input.split('\x01').map((line) => {
        const [name = '', ...value] = line.split('\x02')
        return [name, value.join('\x02')] as const
      })
      return judgeHeaders(pairs, input.length % 5 === 0 ? '1.0' : '1.1')
    },
  },
  {
    name: 'token',
    sources: /\/src\/identity\/shape\.ts$/,
    words: [...jsonWords, '\x01', '.', '=', 'eA'],
    // \x01 is between header and claims, which are encoded; without it the text itself is the token.
    first: ['{"alg":"ES256"}\x01{}', '{"alg":"ES256","kid":"k","typ":"at+jwt"}\x01{"a":[{"b":1}]}', 'eyJhbGciOiJFUzI1NiJ9.e30.eA'],
    judge: (input) => {
      const [header = '', claims] = input.split('\x01')
      return judgeToken(claims === undefined ? header : `${part(header)}.${part(claims)}.eA`)
    },
  },
] // biome-ignore format: a table

const seconds = Number(process.env.SECONDS ?? 60)
const seed = seedOf()
const random = seeded(seed)
const session = new Session()
session.connect()
await session.post('Profiler.enable')
await session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })

const below = (count: number): number => Math.floor(random() * count)
const pick = <T>(from: readonly T[]): T => from[below(from.length)]!

/** One to four edits of an input, with words of the subject and pieces of other inputs. */
function bred(corpus: readonly string[], words: readonly string[]): string {
  let text = pick(corpus)
  for (let edits = 1 + below(4); edits > 0; edits--) {
    const at = below(text.length + 1)
    const cut = random() < 0.5 ? 0 : below(Math.min(8, text.length - at) + 1)
    const kind = random()
    const other = pick(corpus)
    const from = below(other.length + 1)
    const piece =
      kind < 0.45
        ? pick(words)
        : kind < 0.65
          ? String.fromCharCode(below(256))
          : kind < 0.8
            ? other.slice(from, from + below(24))
            : kind < 0.9
              ? text.slice(at, at + below(24))
              : ''
    text = text.slice(0, at) + piece + text.slice(at + cut)
  }
  return text.slice(0, 20_000)
}

/** What ran since the last time: V8 tells ranges where the count differs from the range around them, also the zeros. */
async function blocks(sources: RegExp): Promise<string[]> {
  const { result } = await session.post('Profiler.takePreciseCoverage')
  return result
    .filter(({ url }) => sources.test(url))
    .flatMap(({ functions }) =>
      functions
        .filter(({ ranges }) => ranges[0]!.count > 0)
        .flatMap(({ functionName, ranges }) =>
          // How often, roughly: a loop taken twice is news once.
          ranges.map(
            ({ startOffset, endOffset, count }) =>
              `${functionName}:${startOffset}-${endOffset}:${Math.min(4, Math.ceil(Math.log2(count + 1)))}`,
          ),
        ),
    )
}

async function fuzz(subject: Subject): Promise<boolean> {
  const { name, sources, words, judge } = subject
  const corpus = [...subject.first]
  const seen = new Set<string>()
  const until = performance.now() + seconds * 1000
  let [runs, slowestMs] = [0, 0]
  const wrong: string[] = []
  const run = (input: string): void => {
    const startedAt = performance.now()
    let said: string | undefined
    try {
      said = judge(input)
    } catch (error) {
      said = `crash: ${(error as Error).stack}`
    }
    slowestMs = Math.max(slowestMs, performance.now() - startedAt)
    runs++
    if (said !== undefined)
      wrong.push(`${JSON.stringify(input.slice(0, 300))}: ${said.slice(0, 600)}`)
  }
  const tryOne = async (input: string): Promise<void> => {
    run(input)
    const reached = await blocks(sources)
    if (reached.every((block) => seen.has(block))) return
    for (const block of reached) seen.add(block)
    corpus.push(input)
  }
  await blocks(sources)
  for (const input of subject.first) await tryOne(input)
  while (performance.now() < until && wrong.length < 10) {
    await tryOne(bred(corpus, words))
    // Asking V8 costs more than a run: some go without.
    for (let i = 0; i < 4; i++) run(bred(corpus, words))
    await blocks(sources)
  }
  console.log(
    `  ${name}: ${runs} inputs, ${seen.size} blocks and counts, ${corpus.length} kept, slowest ${slowestMs.toFixed(0)} ms, ${wrong.length} wrong`,
  )
  for (const each of wrong) console.log(`    ${each}`)
  return wrong.length === 0 && slowestMs < 1000 && corpus.length > subject.first.length
}

console.log(`fuzz: ${seconds} s each, SEED=${seed}`)
let fine = true
for (const subject of subjects) fine = (await fuzz(subject)) && fine
process.exitCode = fine ? 0 : 1
