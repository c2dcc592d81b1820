/**
 * `dropgate build` as a user of OPA meets it: policies as they are published are built, or the answer says where it is and what
 * to write; the sources stay as they are; what a gate would refuse is refused here.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import t from 'tap'
import { adviseAnswer } from '../../src/bundle/answer-advice.ts'
import { readArchive } from '../../src/bundle/archive.ts'
import { type BuildOptions, type BuildResult, buildBundle } from '../../src/bundle/build.ts'
import { findingLine } from '../../src/bundle/findings.ts'

const root = process.cwd()
const folder = mkdtempSync(join(tmpdir(), 'dropgate-build-'))
t.teardown(() => rmSync(folder, { recursive: true }))
const limits = {
  maxBundleBytes: 1 << 26,
  maxUnpackedBytes: 1 << 28,
  maxMemoryBytes: 64 << 20,
  evaluationMs: 1000,
  vetTimeoutMs: 20_000,
}

let made = 0
function policies(files: Readonly<Record<string, string>>): string {
  const path = join(folder, `p${made++}`)
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(dirname(join(path, file)), { recursive: true })
    writeFileSync(join(path, file), text)
  }
  return path
}

async function build(
  files: Readonly<Record<string, string>>,
  over: Partial<BuildOptions> = {},
): Promise<BuildResult & { readonly lines: readonly string[]; readonly path: string }> {
  const path = policies(files)
  const out = join(path, 'out', 'b.tar.gz')
  const entrypoints = ['gate/authz/decision']
  const done = await buildBundle({ policies: path, out, entrypoints, root, limits, ...over })
  const lines = done.findings.map((each) => findingLine(each).replace(`${path}/`, ''))
  t.equal(existsSync(out), done.error === undefined, 'a bundle is written where nothing stopped it')
  for (const [file, text] of Object.entries(files))
    if (over.fix !== true) t.equal(readFileSync(join(path, file), 'utf8'), text, 'as it was')
  return { ...done, lines, path }
}

interface Case {
  readonly files: Readonly<Record<string, string>>
  readonly options?: Partial<BuildOptions>
  readonly code?: string
  readonly message?: RegExp
  readonly hint?: RegExp
  readonly findings?: RegExp
}

const envoy = `import input.attributes.request.http as http_request

default allow = false

allow {
    token.payload.role == "guest"
    http_request.method == "GET"
}

token := {"payload": payload} {
    [_, encoded] := split(http_request.headers.authorization, " ")
    [_, _, payload] := io.jwt.decode_verify(encoded, {"secret": "secret"})
}
`

const cases: Readonly<Record<string, Case>> = {
  'Envoy, in the syntax before 1.0': {
    files: { 'policy.rego': `package envoy.authz\n\n${envoy}` },
    code: 'ERR_OPA',
    message: /policy\.rego:7: rego_parse_error: `if` keyword/,
    hint: /--v0-compatible, or rewrite them once with `opa fmt --write --v0-v1/,
  },
  'Envoy, its rule not named in the configuration': {
    files: { 'policy.rego': `package envoy.authz\n\n${envoy}` },
    options: { v0: true },
    code: 'ERR_BUNDLE_POLICY',
    message: /no rule gate\/authz\/decision/,
    hint: /`policy: \{decision: envoy\/authz\/allow\}` .*--entrypoint envoy\/authz\/allow/,
  },
  'Envoy, its rule named': {
    files: { 'policy.rego': `package authz["my-service"].v1\n\n${envoy}` },
    options: { v0: true, entrypoints: ['authz/my-service/v1/allow'] },
    findings: /^p\d+: untested: there are no tests|^policy\.rego:8: format/,
  },
  'Kubernetes admission: a set of reasons': {
    files: { 'a.rego': 'package kubernetes.admission\n\ndeny contains "x" if input.request.kind.kind == "Pod"\n' },
    code: 'ERR_BUNDLE_POLICY',
    hint: /`package gate\.authz` and `decision if \{ input\.attributes; count\(data\.kubernetes\.admission\.deny\) == 0 \}`/,
    findings: /^a\.rego:3: input: input\.request .*AdmissionReview, is input\.parsed_body$/,
  },
  'the set itself as the decision': {
    files: { 'a.rego': 'package kubernetes.admission\n\ndeny contains "x" if input.request.kind.kind == "Pod"\n' },
    options: { entrypoints: ['kubernetes/admission/deny'] },
    code: 'ERR_BUNDLE_TRIAL',
    message: /a list or set, neither a boolean nor an object; it answered \[\]$/,
    hint: /true, false, or an object .*count\(data\.kubernetes\.admission\.deny\) == 0/,
  },
  'what the advice on sets says': {
    files: {
      'a.rego': 'package kubernetes.admission\n\ndeny contains "x" if input.parsed_body.request.kind.kind == "Pod"\n',
      'gate.rego': 'package gate.authz\n\ndecision if { input.attributes; count(data.kubernetes.admission.deny) == 0 }\n',
    },
  },
  'Kafka: allowed where nothing denies': {
    files: { 'a.rego': 'package gate.authz\n\ndefault decision := false\n\ndecision if not deny\n\ndeny if input.action.operation == "READ"\n' },
    code: 'ERR_BUNDLE_TRIAL',
    message: /allows a request with an empty input/,
    hint: /let the rule also ask for a fact/,
    findings: /^a\.rego:7: input: input\.action .*input\.parsed_body$/,
  },
  'http.send, used in two places': {
    files: {
      'a.rego': 'package gate.authz\n\n# http.send was here\ndecision if data.lib.ok\n',
      'lib/b.rego': 'package lib\n\nok if http.send({"method": "get", "url": input.route.name}).status_code == 200\n\nok if {\n\thttp.send({"method": "get", "url": "http://b"}).status_code == 200\n}\n',
    },
    code: 'ERR_BUNDLE_POLICY',
    message: /:\n\S+\/lib\/b\.rego:3: dropgate does not provide http\.send \(a decision never waits.*\)\n\S+\/lib\/b\.rego:6: [^\n]*$/,
    hint: /docs\/builtins\.md/,
  },
  'a rule that walks through a package with functions, which opa compiles to invalid code': {
    files: {
      'a.rego': 'package gate.authz\n\ndecision if {\n\tsome _, result in data.lib\n\tresult == true\n}\n',
      'b.rego': 'package lib\n\nf(a, b) if startswith(a, b)\n\nok if f(input.route.name, "a")\n',
    },
    code: 'ERR_BUNDLE_POLICY',
    message: /not enough arguments on the stack/,
    hint: /rule gate\.authz\.decision .*name the rules one by one/,
  },
  'entitlements: the input of another program': {
    files: { 'a.rego': 'package gate.authz\n\ndecision if data.users[input.user].title == "owner"\n\ndecision if input.attributes.request.http.methd == "GET"\n' },
    findings: /^(?:\S+: untested: .*|a\.rego:3: input: input\.user is not .*; instead: input\.principal, .*|a\.rego:5: input: .*did you mean input\.attributes\.request\.http\.method\?)$/,
  },
  'tests that fail, unused names, another format': {
    files: {
      'a.rego': 'package gate.authz\n\nimport data.nothing\n\ndecision if   input.route.name == "a"\n',
      'a_test.rego': 'package gate.authz_test\n\nimport data.gate.authz\n\ntest_a if authz.decision with input as {"route": {"name": "a"}}\n\ntest_b if authz.decision with input as {}\n',
    },
    findings: /^(?:a\.rego:3: strict: import data\.nothing unused|a\.rego:5: format: .*--fix.*|a_test\.rego:7: test: data\.gate\.authz_test\.test_b fails)$/,
  },
} // biome-ignore format: policies

/** Every second one, by the seed; all of them in `make soak`. */
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
const tried = Object.entries(cases).filter(
  (_, i) => process.env.BUILDS === 'all' || (i + seed) % 2 === 0,
)

for (const [name, { files, options = {}, code, message, hint, findings }] of tried) {
  t.test(`${name} (SEED=${seed})`, async (t) => {
    const done = await build(files, options)
    if (code === undefined) {
      t.equal(done.error?.message, undefined)
      t.match(done.cost?.decisions, [{ decision: options.entrypoints?.[0] ?? 'gate/authz/decision' }])
    } else {
      t.match(done.error, { code, message: message ?? /./, hint: hint ?? /./ })
      t.ok(done.error!.problems!.length > 0)
    }
    if (findings === undefined) return
    t.ok(done.lines.length > 0)
    const others = code === undefined ? done.lines : done.lines.filter((line) => !/: (?:untested|format): /.test(line))
    for (const line of others) t.match(line.replace(/^\S*\/(p\d+)/, '$1'), findings)
  }) // biome-ignore format: short
}

t.test('what a policy answered decides what is advised', async (t) => {
  const advice = (result: unknown) => adviseAnswer('a/b', JSON.stringify(result))
  t.match(advice(['x']), /`decision if \{ input\.attributes; count\(data\.a\.b\) == 0 \}`/)
  t.match(
    advice({ allow: true }),
    /If a\/b is a package, name its rule as the decision: a\/b\/allow/,
  )
  t.match(advice({ result: 'DENY' }), /Give the object a member allowed$/)
  for (const other of ['yes', 1, null, { allowed: 'yes' }])
    t.match(advice(other), /^the gate takes true, false, or an object .* all its fields$/)
})

t.test('data in files that no bundle has is named; a bundle has what it builds from', async (t) => {
  const { warnings, error, out, path } = await build({
    'a.rego': 'package gate.authz\n\ndecision if input.principal.subject == data.roles.admin\n',
    'roles/data.yaml': 'admin: alice\n',
    'users.json': '{"users": {}}',
    '.git/config.json': '{}',
  })
  t.equal(error, undefined)
  t.match(warnings, [new RegExp(`^${path}/users\\.json is not in the bundle`)])
  const { data } = await readArchive(readFileSync(out), limits)
  t.same(JSON.parse(Buffer.from(data).toString()), { roles: { admin: 'alice' } })
})

const route = { name: 'a', path: '/a', auth: 'none', upstream: 'http://127.0.0.1:1' }
const loose = {
  'dropgate.yaml': `database: {url: "\${NO_SUCH}"}\nroutes: ${JSON.stringify([route])}\n`,
  'policies/r.rego': 'package gate.authz\n\ndecision if   input.parsed_path == ["own"]\n',
  'policies/r_test.rego':
    'package gate.authz_test\n\nimport data.gate.authz\n\ntest_own if authz.decision with input as {"parsed_path": ["own"]}\n',
}

/** In a folder of its own, as the user types it. */
function typed(path: string, env: Record<string, string> = {}) {
  return (...args: string[]) =>
    spawnSync('node', [resolve('src/main.ts'), ...args], {
      encoding: 'utf8',
      cwd: path,
      env: { ...process.env, CI: '', ...env },
    })
}

t.test('the command prints findings and changes no source, unless it is asked to', async (t) => {
  const path = policies(loose)
  const run = typed(path)
  const built = run('build')
  t.equal(built.status, 0, built.stderr)
  t.equal(
    built.stdout.replace(/[0-9a-f]{12}/, 'REVISION'),
    'policies/r.rego:3: format: is not formatted as `opa fmt` does it; --fix formats it\nbundles/gate.tar.gz: revision REVISION; tests PASS: 1/1\n',
  )
  const source = join(path, 'policies/r.rego')
  t.equal(readFileSync(source, 'utf8'), loose['policies/r.rego'])
  const before = readFileSync(join(path, 'bundles/gate.tar.gz'))
  t.match(JSON.parse(run('build', '--json').stdout), {
    out: 'bundles/gate.tar.gz',
    tests: 'PASS: 1/1',
    findings: [{ kind: 'format', file: 'policies/r.rego', row: 3 }],
    warnings: [],
  })
  t.same(readFileSync(join(path, 'bundles/gate.tar.gz')), before, 'the same bytes')
  rmSync(join(path, 'bundles'), { recursive: true })
  const strict = typed(path, { CI: 'true' })('build', '--json')
  t.equal(strict.status, 1)
  t.match(JSON.parse(strict.stderr).error, {
    code: 'ERR_OPA',
    message: 'findings stop this build (format): 1',
    hint: /--strict, or the variable CI/,
    problems: [{}, { path: 'policies/r.rego:3', message: /--fix/ }],
  })
  t.notOk(existsSync(join(path, 'bundles/gate.tar.gz')))
  const fixed = run('build', '--fix', '--strict')
  t.equal(fixed.status, 0, fixed.stderr)
  t.match(fixed.stdout, /^formatted policies\/r\.rego\nbundles\/gate\.tar\.gz: .*PASS: 1\/1\n$/)
  t.match(readFileSync(source, 'utf8'), 'decision if input.parsed_path')
}) // biome-ignore format: short

t.test('the first try of a user without a configuration', async (t) => {
  const run = typed(policies({ 'opa/a.rego': 'package envoy.authz\n\nallow if input.route.name == "a"\n' }))
  const first = run('build', 'opa')
  t.equal(first.status, 1)
  t.match(first.stderr, /there is no configuration file .*\n {2}hint: .*dropgate build --entrypoint envoy\/authz\/allow`/)
  const second = run('build', 'opa', '--entrypoint', 'envoy/authz/allow', '--out', 'b.tar.gz')
  t.equal(second.status, 0, second.stderr)
  t.match(second.stdout, /^opa: untested: there are no tests.*\nb\.tar\.gz: revision \w+; tests none\n$/)
  for (const [args, message] of [
    [['build', 'nowhere'], /nowhere is not a folder\n {2}hint: .*dropgate build FOLDER/],
    [['build', 'opa', '--policies', 'other'], /two folders are named/],
  ] as const) {
    const { status, stderr } = run(...args, '--entrypoint', 'a/b')
    t.equal(status, 2)
    t.match(stderr, message)
  }
}) // biome-ignore format: short
