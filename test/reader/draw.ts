/**
 * Ten error messages and ten comments of `src/`, drawn by chance, for a reader to explain in their own words:
 * `SEED=7 node test/reader/draw.ts`. What the reader cannot explain is rewritten. The seed is printed, so that a draw can
 * be repeated.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { codes } from '../../src/errors.ts'
import { seeded, seedOf } from '../harness/wait.ts'

const files = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .sort()

interface Piece {
  readonly at: string
  readonly text: string
}

/** Sentences that a user or an operator is shown. */
function messages(): Piece[] {
  const titles = Object.entries(codes).map(([code, { title }]) => ({ at: code, text: title }))
  const thrown = files.flatMap((file) => {
    const text = readFileSync(`src/${file}`, 'utf8')
    const found = text.matchAll(
      /(?:new GateError\(\s*'ERR_[A-Z_]+',\s*|hint:\s*|log\.(?:info|warn|error)\(\s*\{[^}]*\},\s*)(?:'([^'\n]{15,})'|`([^`\n]{15,})`)/g,
    )
    return [...found].map(([, plain, template]) => ({ at: file, text: (plain ?? template)! }))
  })
  return [...titles, ...thrown]
}

/** Each comment whole, with the line of code under it. */
function comments(): Piece[] {
  return files.flatMap((file) => {
    const lines = readFileSync(`src/${file}`, 'utf8').split('\n')
    const found: Piece[] = []
    for (let i = 0; i < lines.length; i++) {
      if (!/^\s*(?:\/\/|\/\*\*)/.test(lines[i]!)) continue
      const from = i
      if (lines[i]!.includes('/**')) while (!lines[i]!.includes('*/')) i++
      else while (/^\s*\/\//.test(lines[i + 1] ?? '')) i++
      found.push({ at: `${file}:${from + 1}`, text: lines.slice(from, i + 2).join('\n') })
    }
    return found
  })
}

const seed = seedOf()
const random = seeded(seed)
process.stdout.write(`seed ${seed}\n`)
for (const [name, pieces] of [
  ['Messages', messages()],
  ['Comments', comments()],
] as const) {
  process.stdout.write(`\n# ${name}\n`)
  const left = [...pieces]
  for (let n = 1; n <= 10; n++) {
    const [piece] = left.splice(Math.floor(random() * left.length), 1)
    process.stdout.write(`\n${n}. (${piece!.at})\n${piece!.text}\n`)
  }
}
