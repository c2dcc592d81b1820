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
