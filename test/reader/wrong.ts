/**
 * Sixty mistakes that people make, in configurations, on the command line and in rows, each with what dropgate answers, for a
 * reader who does not know the project: does the answer say what is wrong, where, and what to write? `node test/reader/wrong.ts`
 * prints all of them; the first word of a line is what the reader fills in.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { startPostgres } from '../harness/postgres.ts'

const cluster = await startPostgres()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-wrong-'))
mkdirSync(join(folder, 'bundles'))

const good = `listen: {host: 127.0.0.1, port: 8080}
database:
  url: "${cluster.url}"
  cli_url: "${cluster.cli_url}"
  migrate_url: "${cluster.migrate_url}"
issuers:
  - issuer: https://login.example.com
    audience: [api]
policy: {bundles: ./bundles}
routes:
  - name: orders
    path: /orders
    upstream: http://127.0.0.1:9001
`
writeFileSync(join(folder, 'dropgate.yaml'), good)

/** What is written in the place of what, in a configuration that is right. */
const configurations: readonly (readonly [from: string | RegExp, to: string])[] = [
  ['path: /orders', 'path: /orders/*'],
  ['path: /orders', 'path: orders'],
  ['path: /orders', 'path: /orders/:id'],
  ['path: /orders', 'path: ^/orders/[0-9]+$'],
  ['upstream: http://127.0.0.1:9001', 'upstream: 127.0.0.1:9001'],
  ['upstream: http://127.0.0.1:9001', 'upstream: http://127.0.0.1:9001/api/v1'],
  ['upstream: http://127.0.0.1:9001', 'upstream: http://user:secret@127.0.0.1:9001'],
  ['upstream:', 'upstreams:'],
  ['port: 8080', 'port: "80 80"'],
  ['port: 8080', 'port: 808080'],
  ['host: 127.0.0.1, port', 'adress: 127.0.0.1, port'],
  ['https://login.example.com', 'http://login.example.com'],
  ['https://login.example.com', 'https://login.microsoftonline.com/{tenantid}/v2.0'],
  ['https://login.example.com', 'login.example.com'],
  ['audience: [api]', 'audience: []'],
  ['    audience: [api]\n', ''],
  ['audience: [api]', 'audience: [api]\n    algorithms: [HS256]'],
  ['audience: [api]', 'audience: [api]\n    preset: keyclock'],
  ['audience: [api]', 'audience: [api]\n    clock_skew: 5'],
  ['audience: [api]', 'audience: [api]\n    max_token_lifetime: 1day'],
  ['policy: {bundles: ./bundles}', 'policy: {bundles: ./no-such-folder}'],
  ['policy: {bundles: ./bundles}', 'policies: {bundles: ./bundles}'],
  ['name: orders', 'name: orders\n    methods: [get]'],
  ['name: orders', 'name: orders\n    host: https://api.example.com'],
  ['name: orders', 'name: orders\n    auth: no'],
  ['routes:', 'routes:\n  - {name: all, path: /orders, upstream: "http://127.0.0.1:1"}'],
  [/"postgres:\/\/gate[^"]*"/, '"postgres://gate:${GATE_PASSWORD}@127.0.0.1/dropgate"'],
  ['listen: {', 'listen {'],
]

const revoke = (...args: string[]): readonly string[] => ['revoke', ...args]
const commands: readonly (readonly string[])[] = [
  ['revok', '--subject', 'alice'],
  revoke('alice'),
  revoke('--user', 'alice'),
  revoke(),
  revoke('--subject', 'alice', '--subject', 'bob'),
  revoke('--subject', ' alice'),
  revoke('--subject', ''),
  revoke('--everyone', '--reason', 'a test'),
  revoke('--subject', 'alice', '--expires', 'tomorrow'),
  revoke('--subject', 'alice', '--expires', '2020-01-01'),
  revoke('--subject', 'alice', '--issuer', 'https://login.exmaple.com'),
  revoke('--network', '10.0.0.0/33'),
  revoke('--network', '0.0.0.0/0'),
  revoke('--claim', 'role=admin'),
  revoke('--session', 'eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl'),
  ['lift', 'alice'],
  ['lift', '4711'],
  ['show', '4711'],
  ['list', '--limit', 'all'],
  ['status', '--config', 'nowhere.yaml'],
]

const insert = (columns: string, values: string): string =>
  `INSERT INTO dropgate.revocations (${columns}) VALUES (${values})`
const rows: readonly string[] = [
  insert('reason', "'no target'"),
  insert('subject', "'alice '"),
  insert('subject', "''"),
  insert('user', "'alice'"),
  insert('subject, issued_before', "'alice', 'infinity'"),
  insert('token_hash', "'\\xabcd'"),
  insert('key_thumbprint', "'AB:CD:EF'"),
  insert('claims', `'{"role": "admin"}'`),
  insert('claims', `'["/role"]'`),
  insert('everyone', 'true'),
  insert('subject, compare', "'alice', 'auth_time'"),
  "UPDATE dropgate.revocations SET subject = 'bob' WHERE id = 1",
]

const run = (args: readonly string[]): string => {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [resolve('bin/dropgate.js'), ...args],
    { cwd: folder, encoding: 'utf8', env: { PATH: process.env.PATH, HOME: folder } },
  )
  return `${stdout}${stderr}(exit status ${status})`.replaceAll(folder, '/etc/dropgate')
}

let number = 0
function tell(what: string, answer: string): void {
  process.stdout.write(`\n### ${++number}\n\n${what}\n\n    ${answer.replaceAll('\n', '\n    ')}\n`)
}

for (const [from, to] of configurations) {
  const text = good.replace(from, () => to)
  if (text === good) throw new Error(`nothing is replaced: ${from}`)
  const file = join(folder, 'wrong.yaml')
  writeFileSync(file, text)
  tell(
    `In a configuration that is right, \`${from}\` was replaced by \`${to}\`, and checked:`,
    run(['config', 'check', '--config', 'wrong.yaml']),
  )
}
for (const args of commands)
  tell(
    `\`dropgate ${args.map((arg) => (/^[\w./:-]+$/.test(arg) ? arg : `'${arg}'`)).join(' ')}\``,
    run(args),
  )
for (const row of rows) tell(`\`dropgate sql "${row}"\``, run(['sql', row]))
await cluster.close()
rmSync(folder, { recursive: true })
