/** Paths and hosts that no request can have, or that mean a pattern elsewhere, are refused with what to write. */
import t from 'tap'
import { readConfig } from '../../src/config/load.ts'
import type { GateError } from '../../src/errors.ts'
import { RouteTable } from '../../src/route/table.ts'

function tableOf(...parts: readonly object[]): RouteTable {
  const routes = parts.map((part, i) => ({
    name: `r${i}`,
    auth: 'none',
    upstream: 'http://127.0.0.1:1',
    ...part,
  }))
  const written = JSON.stringify({ database: { url: 'postgres://gate@h/d' }, routes })
  return new RouteTable(readConfig(written, '.', {}).routes)
}

function problems(...parts: readonly object[]) {
  try {
    tableOf(...parts)
  } catch (error) {
    return (error as GateError).problems!
  }
  throw new Error(`accepted ${JSON.stringify(parts)}`)
}

t.test('a path that is a pattern elsewhere, or that no request has', async (t) => {
  const cases: readonly (readonly [path: string, why: string, write: string])[] = [
    ['/w/*', 'has a wildcard', 'write /w, which covers every path below it (for the character * itself: %2A)'],
    ['/w/**', 'has a wildcard', 'write /w, which'],
    ['=/w/*/x', 'has a wildcard', 'write /w, which'],
    ['/*', 'has a wildcard', 'write /, which'],
    ['/w/.*', 'has a wildcard', 'write /w, which'],
    ['/w/.+/x', 'has a wildcard', 'write /w, which'],
    ['/a/file*.txt', 'has a wildcard', 'write /a, which'],
    ['/a/:id/b', 'has the placeholder :id', 'write /a, which covers every path below it (for the character : itself: %3A)'],
    ['/a/{id}', 'has the placeholder {id}', 'write /a, which'],
    ['/a/<int:id>', 'has the placeholder <int:id>', 'write /a, which'],
    ['/a/[0-9]+', 'looks like a regular expression', 'write /a, which'],
    ['/a/(b|c)', 'looks like a regular expression', 'write /a, which'],
    ['/a/b$', 'looks like a regular expression', '(for the character $ itself: %24)'],
    ['/a?b=c', 'has a query', 'write /a'],
    ['/a#b', 'has a fragment', 'write /a'],
    ['/a//b', 'has an empty segment', 'write /a/b'],
    ['/a/../b', 'has a segment . or ..', 'write /b'],
    ['/a/%2e/b', 'has a segment . or ..', 'write /a/b'],
    ['/a%7eb', 'is not how a request has this path', 'write /a~b'],
    ['/%61', 'is not how a request has this path', 'write /a'],
    ['/a%c3%a9', 'is not how a request has this path', 'write /a%C3%A9'],
    ['/é', 'is not a path that a request can have', 'write /%C3%A9'],
    ['/a b', 'is not a path that a request can have', 'write /a%20b'],
    ['/a%zz', 'is not a path that a request can have', 'for example /orders'],
    ['/a%00', 'is not a path that a request can have', 'for example /orders'],
    ['/a%2Fb', 'has an encoded / or %', 'add encoded_slashes: pass to the route'],
    ['/a;v=1/b', 'has parameters behind a semicolon', 'write /a/b'],
    ['/a/', 'ends with a slash', 'write /a, which covers every path below it'],
  ] // biome-ignore format: a table
  for (const [path, why, write] of cases) {
    const [problem] = problems({ path })
    t.equal(problem!.path, 'routes[0].path', path)
    t.match(problem!.message, why)
    t.match(problem!.message, write)
  }
})

t.test('a host in a form with which none is compared', async (t) => {
  const cases: readonly (readonly [host: string, why: string, write: string])[] = [
    ['https://a.example', 'without scheme', 'write a.example'],
    ['a.example:8080', 'has a port', 'write a.example'],
    ['*.a.example:8080', 'has a port', 'write *.a.example'],
    ['a.example:80', 'without scheme, port', 'write a.example'],
    ['a.example/x', 'path', 'write a.example'],
    ['A.Example', 'in lower case', 'write a.example'],
    ['a.example.', 'final dot', 'write a.example'],
    ['münchen.example', 'is not a host name', 'write xn--mnchen-3ya.example'],
    ['*', 'is no host name', 'leave host out'],
    ['a.*.example', 'has a * that is not its first label', 'write for example *.example.com'],
    ['api*.example', 'has a * that is not its first label', 'write for example *.example.com'],
    ['::1', 'is not a host name', 'write [::1]'],
    ['a_b c', 'is not a host name', 'write for example api.example.com'],
  ] // biome-ignore format: a table
  for (const [host, why, write] of cases) {
    const [problem] = problems({ host })
    t.equal(problem!.path, 'routes[0].host', host)
    t.match(problem!.message, why)
    t.match(problem!.message, write)
  }
})

t.test('two routes of which one gets no request', async (t) => {
  for (const twins of [
    [{ path: '/a' }, { path: '/a' }],
    [
      { path: '/a', methods: ['GET'] },
      { path: '/a', methods: ['POST'] },
    ],
    [{ path: '=/a' }, { path: '=/a' }],
    [
      { host: 'a.example', path: '/a' },
      { host: 'a.example', path: '/a' },
    ],
  ])
    t.match(problems(...twins), [
      { path: 'routes[1].path', message: 'is already the path of route r0' },
    ])
})

t.test('every problem of every route is named at once', async (t) => {
  const found = problems({ path: '/w/*', host: 'A' }, { path: '/a' }, { path: '/a//b' })
  t.same(
    found.map(({ path }) => path),
    ['routes[0].host', 'routes[0].path', 'routes[2].path'],
  )
})

t.test('what looks odd and is a path or a host is accepted', async (t) => {
  const accepted: readonly object[] = [
    { path: '/v1/users:batch' },
    { path: '/a/(b)' },
    { path: '/$metadata' },
    { path: '/w/%2A' },
    { path: '/%3Aid' },
    { path: '/.well-known' },
    { path: '=/a/' },
    { path: '/a%2Fb', encoded_slashes: 'pass' },
    { path: '/a+b,c=d' },
    { host: '[::1]' },
    { host: '10.0.0.1' },
    { host: 'x_y.example' },
    { host: '*.example' },
  ]
  for (const part of accepted) t.ok(tableOf(part), JSON.stringify(part))
})
