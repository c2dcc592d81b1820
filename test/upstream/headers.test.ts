/** Headers for the upstream where the policy has a say: no other spelling of a name that it sets or removes passes by it. */
import t from 'tap'
import { upstreamHeaders } from '../../src/upstream/headers.ts'

const options = {
  forward: { authorization: 'strip', identity: 'none' },
  route: 'a',
  principal: undefined,
  decisionId: 'd',
  clientAddress: '192.0.2.1',
  forwardedFor: '192.0.2.1',
  scheme: 'https',
  host: 'api.example',
  sentHost: 'api.example',
  prefix: '',
} as const

/** Values of the headers that a CGI-like upstream reads under this name. */
function cgi(headers: readonly string[], name: string): string[] {
  const found: string[] = []
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i]!.toUpperCase().replace(/[^A-Z0-9]/g, '_') === name) found.push(headers[i + 1]!)
  }
  return found
}

const spellings = ['x-role', 'x_role', 'x.role', 'x!role']
const client = ['host', 'api.example', 'x-role', 'admin', 'x-other', 'kept']

t.test('a header that the policy sets replaces the one of the client, in every spelling', async (t) => {
  for (const name of spellings) {
    const sent = upstreamHeaders(client, { ...options, policyHeaders: [[name, 'reader']], removed: [] })
    t.same(cgi(sent, 'X_ROLE'), ['reader'], name)
    t.same(cgi(sent, 'X_OTHER'), ['kept'], name)
  }
}) // biome-ignore format: short

t.test('a header that the policy removes is not sent, in no spelling', async (t) => {
  for (const name of spellings) {
    for (const policyHeaders of [[], [['x-role', 'reader']], [['x_role', 'reader']]] as const) {
      const sent = upstreamHeaders(client, { ...options, policyHeaders, removed: [name] })
      t.same(cgi(sent, 'X_ROLE'), [], name)
      t.same(cgi(sent, 'X_OTHER'), ['kept'], name)
    }
  }
})
