import t from 'tap'
import type { Principal } from '../../src/domain/principal.ts'
import { type Kind, keyOf, keysOf, kinds, type RevocationRow } from '../../src/domain/revocation.ts'
import { Ledger } from '../../src/revocation/ledger.ts'
import { findBlock, findRevocation } from '../../src/revocation/match.ts'

const iss = 'https://idp.example'
const noon = Date.UTC(2026, 0, 1, 12) / 1000

function principal(over: Partial<Principal> = {}): Principal {
  const identity = {
    issuer: iss,
    subject: 'alice',
    sessionId: 'sess-1',
    tokenId: 'tok-1',
    clientId: 'web',
    ...over,
  }
  return {
    tenant: undefined,
    scopes: [],
    issuedAtS: noon,
    expiresAtS: noon + 3600,
    claims: {},
    json: '{}',
    clockSkewMs: 5000,
    boundary: 'inclusive',
    cleanAtVersion: -1,
    ...identity,
    keys: keysOf(identity),
  }
}

function ledgerWith(
  ...rows: (Partial<RevocationRow> & { on: [Kind, string, string][] })[]
): Ledger {
  const ledger = Ledger.create(100)
  for (const [i, { on, ...row }] of rows.entries()) {
    const keys = Buffer.concat(
      on.map(([kind, issuer, value]) =>
        Buffer.concat([Buffer.of(kinds[kind]), keyOf(kind, issuer, value)]),
      ),
    )
    ledger.upsert({ id: i + 1, keys, cutoffUs: null, exact: false, expiresAtS: null, ...row })
  }
  ledger.publish()
  return ledger
}

const denied: [string, [Kind, string, string][]][] = [
  ['its token id', [['token_id', '', 'tok-1']]],
  ['its token id at its issuer', [['token_id', iss, 'tok-1']]],
  ['its session', [['session_id', '', 'sess-1']]],
  ['its subject', [['subject', '', 'alice']]],
  ['its subject at its issuer', [['subject', iss, 'alice']]],
  ['its client', [['client_id', '', 'web']]],
  ['its issuer', [['issuer', iss, '']]],
  ['everyone', [['everyone', '', '']]],
  [
    'its subject and its client',
    [
      ['subject', iss, 'alice'],
      ['client_id', iss, 'web'],
    ],
  ],
  [
    'all of its identifiers',
    [
      ['token_id', '', 'tok-1'],
      ['session_id', '', 'sess-1'],
      ['subject', '', 'alice'],
      ['client_id', '', 'web'],
    ],
  ],
]
for (const [name, on] of denied) {
  t.test(`a block on ${name} denies`, async (t) => {
    t.strictSame(findRevocation(ledgerWith({ on }), principal(), Date.now()), {
      id: 1,
      retry: false,
    })
  })
}

const spared: [string, [Kind, string, string][]][] = [
  ['another subject', [['subject', '', 'bob']]],
  ['the same subject of another issuer', [['subject', 'https://other.example', 'alice']]],
  ['a session with the value of the subject', [['session_id', '', 'alice']]],
  [
    'its subject with another client',
    [
      ['subject', '', 'alice'],
      ['client_id', '', 'cli'],
    ],
  ],
  [
    'another subject with its client',
    [
      ['subject', '', 'bob'],
      ['client_id', '', 'web'],
    ],
  ],
]
for (const [name, on] of spared) {
  t.test(`a block on ${name} does not concern it`, async (t) => {
    t.equal(findRevocation(ledgerWith({ on }), principal(), Date.now()), undefined)
  })
}

t.test(
  'every matching row is looked at: an old cutoff filed first does not hide a block',
  async (t) => {
    const on: [Kind, string, string][] = [['subject', '', 'alice']]
    const ledger = ledgerWith({ on, cutoffUs: (noon - 9000) * 1e6 }, { on })
    t.strictSame(findRevocation(ledger, principal(), Date.now()), { id: 2, retry: false })
  },
)

const cutoffs: [string, Partial<RevocationRow>, Partial<Principal>, unknown][] = [
  ['before the issue time lets it live', { cutoffUs: (noon - 10) * 1e6 }, {}, undefined],
  [
    'a second after the issue time denies for good',
    { cutoffUs: (noon + 1) * 1e6 },
    {},
    { id: 1, retry: false },
  ],
  [
    'in the same whole second denies, and a new token may help',
    { cutoffUs: noon * 1e6, exact: true },
    {},
    { id: 1, retry: true },
  ],
  [
    'in the same whole second lets it live where the boundary is exclusive',
    { cutoffUs: noon * 1e6, exact: true },
    { boundary: 'exclusive' },
    undefined,
  ],
  [
    'half a second into the issue second denies',
    { cutoffUs: noon * 1e6 + 5e5, exact: true },
    {},
    { id: 1, retry: true },
  ],
  ['with an event time gets no skew', { cutoffUs: (noon - 2) * 1e6, exact: true }, {}, undefined],
  [
    'stamped by Postgres gets the skew of the issuer',
    { cutoffUs: (noon - 2) * 1e6 },
    {},
    { id: 1, retry: true },
  ],
  [
    'stamped by Postgres gets the skew even where the boundary is exclusive',
    { cutoffUs: (noon - 2) * 1e6 },
    { boundary: 'exclusive' },
    { id: 1, retry: true },
  ],
  [
    'just past a fractional issue time denies',
    { cutoffUs: noon * 1e6 + 5e5, exact: true },
    { issuedAtS: noon + 0.4 },
    { id: 1, retry: false },
  ],
  [
    'just before a fractional issue time lets it live',
    { cutoffUs: noon * 1e6 + 3e5, exact: true },
    { issuedAtS: noon + 0.4 },
    undefined,
  ],
]
for (const [name, row, who, expected] of cutoffs) {
  t.test(`a cutoff ${name}`, async (t) => {
    const ledger = ledgerWith({ on: [['subject', '', 'alice']], ...row })
    t.strictSame(findRevocation(ledger, principal(who), Date.now()), expected)
  })
}

t.test('a row expires by the clock of Postgres', async (t) => {
  const ledger = ledgerWith({ on: [['subject', '', 'alice']], expiresAtS: noon + 100 })
  t.ok(findRevocation(ledger, principal(), (noon + 99) * 1000))
  t.equal(findRevocation(ledger, principal(), (noon + 100) * 1000), undefined)
  ledger.fresh(1, -30_000)
  t.ok(
    findRevocation(ledger, principal(), (noon + 100) * 1000),
    'Postgres is half a minute behind: still in force',
  )
})

t.test('a clean stamp is believed only at its own version', async (t) => {
  const ledger = ledgerWith()
  const who = principal()
  t.equal(findRevocation(ledger, who, Date.now()), undefined)
  t.equal(who.cleanAtVersion, ledger.version)
  const keys = Buffer.concat([Buffer.of(kinds.subject), keyOf('subject', '', 'alice')])
  ledger.upsert({ id: 5, keys, cutoffUs: null, exact: false, expiresAtS: null })
  ledger.publish()
  t.strictSame(findRevocation(ledger, who, Date.now()), { id: 5, retry: false })
  ledger.remove(5, keys)
  t.equal(
    findRevocation(ledger, who, Date.now()),
    undefined,
    'a denied principal is looked up again each time',
  )
})

t.test('without a token only a block on everyone acts', async (t) => {
  t.ok(findBlock(ledgerWith({ on: [['everyone', '', '']] }), Date.now()))
  t.equal(
    findBlock(ledgerWith({ on: [['everyone', '', '']], cutoffUs: 4e15 }), Date.now()),
    undefined,
  )
  t.equal(findBlock(ledgerWith({ on: [['issuer', iss, '']] }), Date.now()), undefined)
})
