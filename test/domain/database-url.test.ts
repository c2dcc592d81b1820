import t from 'tap'
import { databaseHosts } from '../../src/domain/database-url.ts'

t.test('a URL with one host stays as it is', async (t) => {
  for (const url of [
    'postgres://gate:p%40ss@db:5432/app',
    'postgresql://db/app?sslmode=verify-full',
    'postgres://gate@[::1]:5432/app',
    'postgres:///app?host=/var/run/postgresql',
    'postgres://%2Fvar%2Frun/app',
  ])
    t.same(databaseHosts(url), { urls: [url], wanted: 'any' })
})

t.test('each of several hosts is a URL, with login, database and options', async (t) => {
  const url =
    'postgres://gate:p%40s@a:5433,b,[2001:db8::1]:5434/app?sslmode=require&target_session_attrs=primary'
  t.same(databaseHosts(url), {
    urls: [
      'postgres://gate:p%40s@a:5433/app?sslmode=require',
      'postgres://gate:p%40s@b/app?sslmode=require',
      'postgres://gate:p%40s@[2001:db8::1]:5434/app?sslmode=require',
    ],
    wanted: 'primary',
  })
})

t.test('hosts and ports may stand behind the question mark', async (t) => {
  const ports = (url: string): readonly string[] => databaseHosts(url).urls
  t.same(ports('postgres://gate@/app?host=a,b&port=1,2'), [
    'postgres://gate@a:1/app',
    'postgres://gate@b:2/app',
  ])
  t.same(ports('postgres://gate@/app?host=a,::1,/run/pg&port=1'), [
    'postgres://gate@a:1/app',
    'postgres://gate@[::1]:1/app',
    'postgres://gate@/app?host=%2Frun%2Fpg&port=1',
  ])
  t.same(ports('postgres://a:1,b:2/app?port=3'), ['postgres://a:3/app', 'postgres://b:3/app'])
})

t.test(
  'several hosts want a server that accepts writes, unless the URL says otherwise',
  async (t) => {
    t.equal(databaseHosts('postgres://a,b/app').wanted, 'read-write')
    t.equal(databaseHosts('postgres://a,b/app?target_session_attrs=any').wanted, 'any')
    t.equal(databaseHosts('postgres://a/app?target_session_attrs=read-write').wanted, 'read-write')
  },
)

t.test('what cannot be understood is refused with a sentence that shows no password', async (t) => {
  for (const [url, sentence] of [
    ['mysql://gate:secret@a/app', /not a URL such as postgres:/],
    ['postgres://gate:12/secret@db/app', /in a login and password, \/ .* are written as %2F/],
    ['postgres://gate:12?secret@db/app', /in a login and password, \/ .* are written as %2F/],
    ['postgres://gate:secret@a,,b/app', /a host is empty/],
    ['postgres://gate:secret@a:x,b/app', /a host or port is malformed/],
    ['postgres://gate:secret@/app?host=a,b&port=1,2,3', /2 hosts and 3 ports/],
    ['postgres://gate:secret@/app?host=a,b&port=x', /a port is not a number/],
    ['postgres://gate:secret@a/app?target_session_attrs=standby', /=standby: expected read-write/],
  ] as const) {
    const message = sentenceOf(url)
    t.match(message, sentence)
    t.notMatch(message, /secret/)
  }
})

function sentenceOf(url: string): string {
  try {
    databaseHosts(url)
  } catch (error) {
    return (error as Error).message
  }
  return 'it is understood'
}
