/** docs/apps.md: each public case names its repository and number, and a test that is there. */
import { readFileSync } from 'node:fs'
import t from 'tap'

const rows = readFileSync('docs/apps.md', 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| ') && !/^\| (?:Reported in|---)/.test(line))
  .map((line) => line.split(/(?<!\\)\|/).map((cell) => cell.trim()))

t.test('each case is one of a public repository, and its test is there', async (t) => {
  t.ok(rows.length > 10, `${rows.length} rows`)
  for (const [, reported = '', , , test = ''] of rows) {
    for (const each of reported.split(', ')) t.match(each, /^[\w.-]+\/[\w.-]+ #\d+$/, reported)
    const [, file = '', name = ''] = /^`(test\/[\w./-]+\.ts)`: (.+)$/.exec(test) ?? []
    t.ok(readFileSync(file, 'utf8').includes(name), `${file}: ${name}`)
  }
})
