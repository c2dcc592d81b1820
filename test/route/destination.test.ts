/** COPY and MOVE take whole trees with them: none that another route serves in part. */
import t from 'tap'
import { readConfig } from '../../src/config/load.ts'
import { checkDestination } from '../../src/route/destination.ts'
import { type Route, RouteTable } from '../../src/route/table.ts'
import { parseRequestTarget } from '../../src/route/target.ts'

const options = { scheme: 'http', maxBytes: 8192 } as const
const written = {
  database: { url: 'postgres://gate@127.0.0.1/gate' },
  routes: ['/', '/dav/secret', '=/dav/one/file'].map((path) => ({
    ...{ name: path, path, auth: 'none', upstream: 'http://127.0.0.1:1' },
    methods: path === '/' ? ['COPY', 'MOVE'] : ['GET'],
  })),
}
const routes = new RouteTable(readConfig(JSON.stringify(written), '.', {}).routes)

/** @returns undefined where it may go, else why not. */
function move(from: string, to: string): unknown {
  const target = parseRequestTarget('MOVE', from, 'a.example', options)
  const route = routes.find(target) as Route
  try {
    checkDestination(to, target, { route, routes }, options)
    return undefined
  } catch (error) {
    return (error as Error).cause
  }
}

t.test('what lies beside the other routes may be copied', async (t) => {
  for (const [from, to] of [
    ['/dav/a', '/dav/b'], ['/dav/a/', '/dav/b/'], ['/dav/secrets', '/dav/b'], ['/dav/one/files', '/dav/a'], ['/other', '/dav/c'],
  ] as const)
    t.equal(move(from, to), undefined, `${from} ${to}`)
}) // biome-ignore format: short

t.test('a tree in which another route begins is neither copied nor written over', async (t) => {
  for (const tree of ['/', '/dav', '/dav/', '/dav/one', '/dav/one/']) {
    t.match(move(tree, '/pub'), /another route begins below/, `from ${tree}`)
    t.match(move('/pub', tree), /another route begins below/, `to ${tree}`)
  }
  t.match(move('/dav/a', '/dav/secret/b'), /not served by this route/)
})
