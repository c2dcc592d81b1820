/** README.md and docs/: what they name is there, and what they print can be pasted. That it runs: test/pages/. */
import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { writeTables } from '../../src/config/schema.ts'
import { codes } from '../../src/errors.ts'
import { blocksOf } from '../harness/pages.ts'

const pages = ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', ...globSync('docs/**/*.md').sort()]
const textOf = (page: string): string => readFileSync(page, 'utf8')
/** The page without its code blocks, which may hold anything. */
const proseOf = (page: string): string => textOf(page).replace(/^( *)```[\s\S]*?^\1```$/gm, '')

t.test('a code block is fenced and names its language, so that the tests know what it is', (t) => {
  const languages = ['sh', 'sql', 'yaml', 'json', 'rego', 'text', 'ini', 'nginx', 'js']
  for (const page of pages) {
    for (const { language, where } of blocksOf(page)) t.ok(languages.includes(language), where)
    const indented = /^\n {4}\S.*$/m.exec(
      proseOf(page).replace(/^( *[-\d].*\n)(?:\n? {2,}.*\n)*/gm, '$1'),
    )
    t.equal(indented, null, `${page}: ${indented?.[0].trim()}`)
  }
  t.end()
})

t.test('no printed command holds an ellipsis', (t) => {
  for (const page of pages)
    for (const { language, text, where } of blocksOf(page))
      if (['sh', 'sql', 'yaml'].includes(language)) t.notMatch(text, /…|\.\.\.(?!\/)/, where)
  t.end()
})

t.test('a link leads to a page, and to a heading of it', (t) => {
  for (const page of pages)
    for (const [, target = ''] of proseOf(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [path = '', anchor] = target.split('#')
      const file = path === '' ? page : join(dirname(page), path)
      if (!t.ok(existsSync(file), `${page}: ${target}`) || anchor === undefined) continue
      const headings = [...textOf(file).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
        heading
          .toLowerCase()
          .replace(/[^\p{L}\p{N} _-]/gu, '')
          .replaceAll(' ', '-'),
      )
      t.ok(headings.includes(anchor), `${page}: ${target}`)
    }
  t.end()
})

t.test('an option and a code that a page names is one', (t) => {
  const options = new Set(
    [...writeTables().matchAll(/^\| `([^`]+)` \|/gm)].flatMap(([, option = '']) => {
      const parts = option.split('.')
      // A whole part of the file may be named as well.
      return parts.map((_, i) => parts.slice(0, i + 1).join('.'))
    }),
  )
  const parts = [...new Set([...options].map((option) => option.split(/[.[]/, 1)[0]))].join('|')
  const named = new RegExp(
    `\`((?:${parts})(?:\\[\\])?(?:\\.(?!test\\b|ts\\b)[a-z_]+(?:\\[\\])?)+)\``,
    'g',
  )
  // A file of this name lies in the state folder.
  options.add('admin.token')
  for (const page of pages) {
    for (const [, option = ''] of proseOf(page).matchAll(named))
      t.ok(options.has(option) || options.has(`${option}[]`), `${page}: ${option}`)
    if (page === 'docs/reference/errors.md') {
      const rows = textOf(page).matchAll(/^\| `(ERR_[A-Z_]+)` \|.*\| (.*) \|$/gm)
      const help = new Map([...rows].map(([, code = '', text = '']) => [code, text]))
      for (const code of Object.keys(codes)) t.ok(help.get(code), `${code}: what to do`)
    }
    // Node's own, which docs/testing.md names.
    const others = ['ERR_UNKNOWN_FILE_EXTENSION']
    for (const [code] of proseOf(page).matchAll(/\bERR_[A-Z_]+\b(?!_)/g))
      if (!others.includes(code)) t.ok(code in codes, `${page}: ${code}`)
  }
  t.end()
})

t.test('every command that a page prints is run by a test, or said to be untried', (t) => {
  const tests = globSync('test/pages/*.test.ts')
    .map((file) => readFileSync(file, 'utf8'))
    .join()
  // For people who change dropgate: what they type is run by everybody who does, and by CI.
  const inside = ['CONTRIBUTING.md', 'docs/testing.md']
  for (const page of pages) {
    if (inside.includes(page)) continue
    const commands = blocksOf(page).filter(
      ({ language, untried }) => ['sh', 'sql'].includes(language) && !untried,
    )
    if (commands.length > 0) t.ok(tests.includes(`'${page}'`), `a test in test/pages runs ${page}`)
  }
  const targets = new Set(readFileSync('Makefile', 'utf8').match(/^[a-z-]+(?=:)/gm))
  for (const page of inside)
    for (const { language, text, where } of blocksOf(page))
      if (language === 'sh')
        for (const [, target = ''] of text.matchAll(/\bmake ([a-z-]+)/g))
          t.ok(targets.has(target), `${where}: make ${target}`)
  t.end()
})
