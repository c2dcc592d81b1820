/** Tables fit a width, count wide characters, and hold nothing that a terminal would obey. */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import {
  displayWidth,
  formatTable,
  plain,
  plainJson,
  type TableOptions,
} from '../../src/cli/table.ts'
import { minute, moment, span } from '../../src/cli/times.ts'

const rows = [
  { id: 12, target: 'subject alice', reason: 'left the company', source: 'dropgate revoke' },
  { id: 7, target: `claim /role = "${'x'.repeat(60)}"`, reason: null, source: 'console' },
]
const linesOf = (options?: TableOptions, of: Parameters<typeof formatTable>[0] = rows): string[] =>
  formatTable(of, options).split('\n')

t.test('without a width everything is shown', async (t) => {
  const lines = linesOf()
  t.equal(lines.length, 4)
  t.match(lines[2], /^12 {2}subject alice +left the company {2}dropgate revoke$/)
  t.match(lines[3], `"${'x'.repeat(60)}"`)
  t.same(linesOf({}, []), ['(no rows)'])
})

t.test('at every width the lines fit, and the columns stay aligned', async (t) => {
  for (let width = 40; width < 140; width++) {
    const lines = linesOf({ width, spare: ['source'] })
    for (const line of lines) t.ok(displayWidth(line) <= width, `${width}: ${line}`)
    const at = lines[0]!.indexOf('target')
    t.equal(lines[2]!.indexOf('subject'), at, String(width))
  }
})

t.test('cells are shortened first, then spare columns go, and the last line says so', async (t) => {
  const short = linesOf({ width: 80, spare: ['source'] })
  t.match(short[0], /source/)
  t.match(short[3], /claim \/role = "x+… /)
  const narrow = linesOf({ width: 50, spare: ['source', 'reason'] })
  t.notMatch(narrow[0], /source/)
  t.match(narrow[0], /reason/, 'one was enough')
  t.equal(narrow.at(-1), '(too narrow for: source)')
  const ids = linesOf({ width: 50, whole: ['target'], spare: ['source', 'reason'] })
  t.match(ids[3], rows[1]!.target, 'a column that is pasted elsewhere stays whole')
  const numbers = [{ id: 1234567890123, at: '2026-11-29 20:15Z', name: 'abcdefghijklmnop' }]
  t.match(linesOf({ width: 44 }, numbers)[2], '1234567890123  2026-11-29 20:15Z  abcdefgh', 'whole')
})

t.test('wide characters count as two columns, marks as none', async (t) => {
  for (const [text, width] of [
    ['abc', 3],
    ['é', 1],
    ['e\u0301', 1],
    ['漢字', 4],
    ['한국', 4],
    ['ｆｕｌｌ', 8],
    ['🎉', 2],
    ['👩\u200d👩\u200d👧', 2],
    ['naïve…', 6],
  ] as const)
    t.equal(displayWidth(text), width, text)
  const mixed = [
    { name: '漢字漢字漢字漢字', x: 'end' },
    { name: 'plain', x: 'end' },
  ]
  const lines = linesOf({ width: 16 }, mixed)
  for (const line of lines) t.ok(displayWidth(line) <= 16, line)
  t.equal(displayWidth(lines[2]!.split('end')[0]!), lines[3]!.indexOf('end'))
})

t.test('nothing that a terminal obeys reaches it', async (t) => {
  const hostile = 'a\u001b[31mred\u0007\n\r\u009b2J\u202eevil\u2066x\u200b'
  const [, , line = ''] = linesOf({}, [{ reason: hostile, object: { hostile } }])
  t.notMatch(line, /[\p{Cc}\u200b\u202e\u2066]/u)
  t.match(line, /a\?\[31mred\?\?\?\?2J\?evil\?x\?/)
  t.equal(plain('al\u00adi\u2060ce\u3164\u{e0041}'), 'al?i?ce??', 'not like alice')
  const family = '👩\u200d👩\u200d👧 ❤\ufe0f می\u200cخواهم'
  t.equal(plain(family), family)
  const value = { [hostile]: ['\u{e0041}', family] }
  const json = plainJson(JSON.stringify(value))
  t.notMatch(json, /[\p{Cc}\u200b\u202e\u2066\u{e0041}]/u)
  t.same(JSON.parse(json), value)
})

t.test('a million rows are a table too', async (t) => {
  const many = Array.from({ length: 200_000 }, (_, id) => ({ id }))
  t.equal(linesOf({ width: 80 }, many).length, 200_002)
})

t.test('times are in UTC, with how long ago', async (t) => {
  const time = new Date('2026-11-29T20:15:07.123Z')
  const after = (ms: number): Date => new Date(time.getTime() + ms)
  t.equal(minute(time), '2026-11-29 20:15Z')
  t.equal(moment(time, after(3 * 3_600_000)), '2026-11-29 20:15:07Z (3 h ago)')
  t.equal(moment(time, after(-90_000)), '2026-11-29 20:15:07Z (in 90 s)')
  for (const [ms, said] of [
    [0, '0 s'],
    [119_000, '119 s'],
    [120_000, '2 min'],
    [3_600_000, '60 min'],
    [49 * 3_600_000, '2 d'],
    [4e11, '12 y'],
  ] as const)
    t.equal(span(ms), said)
})

const hasScript = spawnSync('script', ['--version']).status === 0
t.test(
  'the width is that of the terminal; a pipe has none',
  { skip: hasScript ? false : 'the tool script (util-linux), which makes a terminal, is missing' },
  async (t) => {
    const program = join(t.testdir({}), 'print.ts')
    const output = new URL('../../src/cli/output.ts', import.meta.url).pathname
    writeFileSync(
      program,
      `import { printTable } from ${JSON.stringify(output)}\nprintTable([{ text: 'x'.repeat(200), spare: 'y'.repeat(30) }], { spare: ['spare'] })\n`,
    )
    const run = (columns: number): string[] => {
      const command = `stty cols ${columns}; '${process.execPath}' '${program}'`
      const { stdout } = spawnSync('script', ['-qec', command, '/dev/null'], { encoding: 'utf8' })
      return stdout.trim().split(/\r?\n/)
    }
    for (const columns of [40, 90])
      t.equal(Math.max(...run(columns).map(displayWidth)), columns, String(columns))
    const piped = spawnSync(process.execPath, [program], { encoding: 'utf8' }).stdout
    t.match(piped, `${'x'.repeat(200)}  ${'y'.repeat(30)}`)
  },
)
