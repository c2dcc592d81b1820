import t from 'tap'
import { readConfig } from '../../src/config/load.ts'
import type { GateError } from '../../src/errors.ts'
import { RouteTable } from '../../src/route/table.ts'
import { parseRequestTarget } from '../../src/route/target.ts'

function table(
  ...routes: readonly (readonly [name: string, host: string, path: string])[]
): RouteTable {
  const written = {
    database: { url: 'postgres://gate@127.0.0.1/gate' },
    routes: routes.map(([name, host, path]) => ({
      name,
      path,
      auth: 'none',
      upstream: 'http://127.0.0.1:1',
      ...(host === '' ? {} : { host }),
    })),
  }
  return new RouteTable(readConfig(JSON.stringify(written), '.', {}).routes)
}

const find = (routes: RouteTable, host: string, path: string): string => {
  const found = routes.find(
    parseRequestTarget('GET', path, host, { scheme: 'http', maxBytes: 8192 }),
  )
  return typeof found === 'string' ? found : found.config.name
}

t.test('the longest path wins, by whole segments, exact first', async (t) => {
  const routes = table(
    ['root', '', '/'],
    ['orders', '', '/orders'],
    ['items', '', '/orders/items'],
    ['only', '', '=/orders'],
    ['slash', '', '=/orders/'],
  )
  const cases: readonly [path: string, name: string][] = [
    ['/', 'root'],
    ['/other', 'root'],
    ['/ordersx', 'root'],
    ['/orders', 'only'],
    ['/orders/', 'slash'],
    ['/orders/7', 'orders'],
    ['/orders/items', 'items'],
    ['/orders/items/7', 'items'],
    ['/%6frders/7', 'orders'],
    ['/orders%2Fitems/7', 'root'],
    ['/orders;v=1/7', 'orders'],
  ]
  for (const [path, name] of cases) t.equal(find(routes, 'any', path), name, path)
})

t.test('the host chooses first and never falls through', async (t) => {
  const routes = table(
    ['exact', 'api.example.com', '/a'],
    ['wild', '*.example.com', '/'],
    ['deep', '*.eu.example.com', '/'],
    ['any', '', '/any'],
  )
  const cases: readonly [host: string, path: string, name: string][] = [
    ['api.example.com', '/a', 'exact'],
    ['API.example.com.:8080', '/a', 'exact'],
    ['api.example.com', '/b', 'no-route'],
    ['api.example.com', '/any', 'no-route'],
    ['www.example.com', '/any', 'wild'],
    ['a.b.example.com', '/', 'wild'],
    ['x.eu.example.com', '/', 'deep'],
    ['example.com', '/any', 'any'],
    ['other.test', '/', 'no-route'],
  ]
  for (const [host, path, name] of cases) t.equal(find(routes, host, path), name, `${host}${path}`)
  t.equal(find(table(['a', 'a.example', '/']), 'b.example', '/'), 'host-unknown')
})

t.test('a table that no request could mean is refused, naming the route', async (t) => {
  const cases: [readonly (readonly [string, string, string])[], RegExp][] = [
    [
      [
        ['a', '', '/x'],
        ['b', '', '/x'],
      ],
      /routes\[1\]\.path.*route a/,
    ],
    [[['a', '', '/x/']], /routes\[0\]\.path.*slash/],
    [[['a', '', '/a/../b']], /routes\[0\]\.path/],
    [[['a', '', '/%61']], /routes\[0\]\.path/],
    [[['a', '', '/x?y']], /routes\[0\]\.path/],
    [[['a', 'API.example.com', '/']], /routes\[0\]\.host/],
    [[['a', 'api.example.com:80', '/']], /routes\[0\]\.host/],
    [[['a', 'a.*.example.com', '/']], /routes\[0\]\.host/],
  ]
  for (const [routes, message] of cases) {
    try {
      table(...routes)
      t.fail(`accepted ${JSON.stringify(routes)}`)
    } catch (error) {
      t.equal((error as GateError).code, 'ERR_CONFIG_VALUE')
      t.match((error as GateError).message, message)
    }
  }
})

t.test('what a route changes on the way is refused where it cannot work', async (t) => {
  const problemOf = (part: object): string => {
    const route = { name: 'a', path: '/a', auth: 'none', upstream: 'http://127.0.0.1:1', ...part }
    const database = { url: 'postgres://gate@127.0.0.1/gate' }
    const { routes } = readConfig(JSON.stringify({ database, routes: [route] }), '.', {})
    try {
      new RouteTable(routes)
    } catch (error) {
      return (error as GateError).problems!.map(({ path, message }) => `${path} ${message}`).join()
    }
    return ''
  }
  const refused: [part: object, problem: RegExp][] = [
    [{ path: '/', strip_prefix: true }, /^routes\[0\]\.strip_prefix there is nothing to cut off/],
    [{ base_path: '/a/../b' }, /^routes\[0\]\.base_path "\/a\/\.\.\/b" is not how a request has a path/],
    [{ base_path: '/a//b' }, /base_path/],
    [{ base_path: '/a?b' }, /base_path/],
    [{ base_path: '/%61' }, /base_path/],
    [{ base_path: '/a;b' }, /base_path/],
    [{ base_path: '/a%2Fb' }, /base_path/],
    [{ forward: { host: 'App.internal' } }, /^routes\[0\]\.forward\.host App.internal is not how a host is written; write app.internal/],
    [{ forward: { host: 'app.internal:80' } }, /write app.internal$/],
    [{ forward: { host: '1.2.3' } }, /malformed/],
    [{ forward: { host: 'upstream' }, upstream: 'unix:/run/a.sock' }, /a Unix socket has no host/],
  ] // biome-ignore format: a table
  for (const [part, problem] of refused) t.match(problemOf(part), problem, JSON.stringify(part))
  for (const part of [
    { strip_prefix: true },
    { path: '/', base_path: '/v1' },
    { path: '=/a', strip_prefix: true, base_path: '/x/y.z' },
    { forward: { host: 'app.internal:8080' } },
    { forward: { host: '[::1]:8080' } },
    { forward: { host: 'upstream' } },
    { upstream: 'unix:/run/a.sock' },
  ])
    t.equal(problemOf(part), '', JSON.stringify(part))
})
