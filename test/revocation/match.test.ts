import t from 'tap'
import { addressBytes } from '../../src/domain/address.ts'
import { subjectCaller } from '../../src/domain/caller.ts'
import type { PeerIdentity } from '../../src/domain/peer.ts'
import { noPointers, type Principal } from '../../src/domain/principal.ts'
import {
  claimKeys,
  everyoneKey,
  type Kind,
  keyBytes,
  keyOf,
  keysOf,
  kinds,
  negatedKinds,
  networkKey,
  type RevocationRow,
} from '../../src/domain/revocation.ts'
import { Ledger } from '../../src/revocation/ledger.ts'
import { findBlock, findRevocation } from '../../src/revocation/match.ts'
import { ClaimPointers } from '../../src/revocation/pointers.ts'

const iss = 'https://idp.example'
const home: PeerIdentity = { address: '192.0.2.7', certificate: undefined }
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
    json: '{"claims":{}}',
    clockSkewMs: 5000,
    boundary: 'inclusive',
    cleanAtVersion: -1,
    authTimeS: undefined,
    boundTo: undefined,
    pointers: noPointers,
    pointersSeen: 0,
    ...identity,
    caller: subjectCaller(identity.issuer, identity.subject),
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
    ledger.upsert({
      id: i + 1,
      keys,
      cutoffUs: null,
      exact: false,
      authTime: false,
      expiresAtS: null,
      ...row,
    })
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
    t.strictSame(findRevocation(ledgerWith({ on }), principal(), home, Date.now()), {
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
    t.equal(findRevocation(ledgerWith({ on }), principal(), home, Date.now()), undefined)
  })
}

t.test(
  'every matching row is looked at: an old cutoff filed first does not hide a block',
  async (t) => {
    const on: [Kind, string, string][] = [['subject', '', 'alice']]
    const ledger = ledgerWith({ on, cutoffUs: (noon - 9000) * 1e6 }, { on })
    t.strictSame(findRevocation(ledger, principal(), home, Date.now()), { id: 2, retry: false })
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
    t.strictSame(findRevocation(ledger, principal(who), home, Date.now()), expected)
  })
}

t.test('a row expires by the clock of Postgres', async (t) => {
  const ledger = ledgerWith({ on: [['subject', '', 'alice']], expiresAtS: noon + 100 })
  t.ok(findRevocation(ledger, principal(), home, (noon + 99) * 1000))
  t.equal(findRevocation(ledger, principal(), home, (noon + 100) * 1000), undefined)
  ledger.fresh(1, -30_000)
  t.ok(
    findRevocation(ledger, principal(), home, (noon + 100) * 1000),
    'Postgres is half a minute behind: still in force',
  )
})

t.test('a clean stamp is believed only at its own version', async (t) => {
  const ledger = ledgerWith()
  const who = principal()
  t.equal(findRevocation(ledger, who, home, Date.now()), undefined)
  t.equal(who.cleanAtVersion, ledger.version)
  const keys = Buffer.concat([Buffer.of(kinds.subject), keyOf('subject', '', 'alice')])
  ledger.upsert({ id: 5, keys, cutoffUs: null, exact: false, authTime: false, expiresAtS: null })
  ledger.publish()
  t.strictSame(findRevocation(ledger, who, home, Date.now()), { id: 5, retry: false })
  ledger.remove(5, keys)
  t.equal(
    findRevocation(ledger, who, home, Date.now()),
    undefined,
    'a denied principal is looked up again each time',
  )
})

t.test('without a token only a block on everyone acts', async (t) => {
  t.ok(findBlock(ledgerWith({ on: [['everyone', '', '']] }), home, Date.now()))
  t.equal(
    findBlock(ledgerWith({ on: [['everyone', '', '']], cutoffUs: 4e15 }), home, Date.now()),
    undefined,
  )
  t.equal(findBlock(ledgerWith({ on: [['issuer', iss, '']] }), home, Date.now()), undefined)
})

t.test('a clean stamp says nothing about where the exchange comes from', async (t) => {
  const network = Buffer.concat([
    Buffer.of(kinds.network),
    networkKey(addressBytes('192.0.2.0')!, 24),
  ])
  const certificate = Buffer.concat([Buffer.of(kinds.client_cert), keyOf('client_cert', '', 'c')])
  const alice = Buffer.concat([Buffer.of(kinds.subject), keyOf('subject', '', 'alice')])
  const row = { cutoffUs: null, exact: false, authTime: false, expiresAtS: null }
  const ledger = ledgerWith()
  const who = principal()
  const away: PeerIdentity = { address: '198.51.100.1', certificate: undefined }
  const carrying: PeerIdentity = { address: '198.51.100.1', certificate: 'c' }
  t.equal(findRevocation(ledger, who, home, Date.now()), undefined)
  ledger.upsert({ id: 1, keys: Buffer.concat([network, alice]), ...row })
  ledger.publish()
  t.equal(findRevocation(ledger, who, away, Date.now()), undefined)
  t.equal(who.cleanAtVersion, ledger.version)
  t.equal(findRevocation(ledger, who, home, Date.now())?.id, 1, 'stamped clean from elsewhere')
  t.equal(findRevocation(ledger, who, { ...home, address: '::ffff:192.0.2.9' }, 0)?.id, 1)
  t.equal(findRevocation(ledger, principal({ subject: 'bob' }), home, Date.now()), undefined)
  t.equal(findBlock(ledger, home, Date.now()), undefined, 'it names a subject')
  ledger.upsert({ id: 2, keys: certificate, ...row })
  t.same(findBlock(ledger, carrying, Date.now()), { id: 2, on: 'peer' })
  t.equal(findRevocation(ledger, who, carrying, Date.now())?.id, 2)
  ledger.upsert({ id: 3, keys: network, ...row, cutoffUs: 4e15 })
  t.equal(findBlock(ledger, home, Date.now()), undefined, 'a cutoff is for tokens')
  ledger.upsert({ id: 4, keys: network, ...row })
  t.same(findBlock(ledger, home, Date.now()), { id: 4, on: 'peer' })
  for (const address of [undefined, 'nonsense']) {
    const nowhere: PeerIdentity = { address, certificate: undefined }
    t.throws(() => findRevocation(ledger, who, nowhere, Date.now()), { code: 'ERR_NOT_READY' })
    t.throws(() => findBlock(ledger, nowhere, Date.now()), { code: 'ERR_NOT_READY' })
  }
  ledger.remove(4, network)
  ledger.upsert({ id: 5, keys: Buffer.concat([Buffer.of(6), everyoneKey]), ...row })
  t.same(findBlock(ledger, home, Date.now()), { id: 5, on: 'everyone' })
})

t.test('a key that must not be held spares who holds it, and hits who holds none', async (t) => {
  const keys = Buffer.concat([
    Buffer.of(kinds.subject),
    keyOf('subject', '', 'alice'),
    Buffer.of(negatedKinds.except_session_id),
    keyOf('session_id', '', 'sess-1'),
  ])
  const row = { id: 1, keys, cutoffUs: null, exact: false, authTime: false, expiresAtS: null }
  const ledger = Ledger.create(10)
  ledger.upsert(row)
  ledger.publish()
  t.equal(findRevocation(ledger, principal(), home, Date.now()), undefined)
  t.ok(findRevocation(ledger, principal({ sessionId: 'sess-2' }), home, Date.now()))
  t.ok(findRevocation(ledger, principal({ sessionId: undefined }), home, Date.now()))
  const alone = keys.subarray(keyBytes)
  t.throws(() => ledger.upsert({ ...row, keys: alone }), { code: 'ERR_LEDGER_UNMATCHABLE' })
  const turned = Buffer.concat([alone, keys.subarray(0, keyBytes)])
  ledger.remove(1, keys)
  ledger.upsert({ ...row, keys: turned })
  t.equal(findRevocation(ledger, principal(), home, Date.now()), undefined, 'in any order')
  t.ok(findRevocation(ledger, principal({ sessionId: 'sess-2' }), home, Date.now()))
})

const signIns: [string, number | undefined, unknown][] = [
  ['before it denies for good', noon - 100, { id: 1, retry: false }],
  ['after it lets live', noon + 100, undefined],
  ['in its second denies, and another sign-in may help', noon, { id: 1, retry: true }],
  ['that the token does not tell denies', undefined, { id: 1, retry: false }],
]
for (const [name, authTimeS, expected] of signIns) {
  t.test(`a cutoff on the sign-in: one ${name}`, async (t) => {
    const row = { cutoffUs: noon * 1e6, exact: true, authTime: true }
    const ledger = ledgerWith({ on: [['subject', '', 'alice']], ...row })
    const who = { ...principal({ issuedAtS: noon + 5000 }), authTimeS }
    t.strictSame(findRevocation(ledger, who, home, Date.now()), expected)
  })
}

t.test('a claim that becomes known between look-up and row is never missed', async (t) => {
  // Every interleaving of the writer's three steps with a reader that looks up at each point.
  const keys = Buffer.concat([Buffer.of(kinds.claim), claimKeys('', '/role', 'clerk')[1]!])
  for (let stop = 0; stop <= 3; stop++) {
    const pointers = new ClaimPointers()
    const seenByWorker = new ClaimPointers(pointers.shared)
    const ledger = ledgerWith()
    const who: Principal = {
      ...principal(),
      json: '{"claims":{"role":"clerk"}}',
      pointers: seenByWorker,
    }
    const row = { id: 1, keys, cutoffUs: null, exact: false, authTime: false, expiresAtS: null }
    const steps = [
      () => pointers.learn(['/other', '/role']),
      () => ledger.upsert(row),
      () => ledger.publish(),
    ]
    for (const step of steps.slice(0, stop)) step()
    findRevocation(ledger, who, home, Date.now())
    for (const step of steps.slice(stop)) step()
    t.equal(findRevocation(ledger, who, home, Date.now())?.id, 1, `looked up after ${stop} steps`)
    t.equal(who.pointersSeen, 2)
  }
})

t.test('claims become known once, in order, until there is no room', async (t) => {
  const pointers = new ClaimPointers()
  const reader = new ClaimPointers(pointers.shared)
  t.equal(pointers.learn([]), false)
  t.equal(pointers.learn(['/a', '/ä']), true)
  t.equal(pointers.learn(['/ä', '/a']), false)
  t.same([reader.count, reader.at(1), reader.at(0)], [2, '/ä', '/a'])
  t.throws(() => pointers.learn(Array.from({ length: 300 }, (_, i) => `/${i}${'x'.repeat(250)}`)), {
    code: 'ERR_LEDGER_FULL',
  })
  t.equal(reader.at(reader.count - 1), pointers.at(pointers.count - 1))
})

t.test('an address matches in every spelling', async (t) => {
  for (const [text, hex] of [
    ['192.0.2.1', 'c0000201'],
    ['::ffff:192.0.2.1', 'c0000201'],
    ['::ffff:c000:201', 'c0000201'],
    ['0:0:0:0:0:ffff:192.0.2.1', 'c0000201'],
    ['::', '0'.repeat(32)],
    ['::1', `${'0'.repeat(31)}1`],
    ['2001:db8::', `20010db8${'0'.repeat(24)}`],
    ['fe80::1:2%lo', `fe80${'0'.repeat(20)}00010002`],
    ['1:2:3:4:5:6:7:8', '00010002000300040005000600070008'],
    ['::ffff:0:192.0.2.1', `${'0'.repeat(16)}ffff0000c0000201`],
  ] as const) {
    t.equal(Buffer.from(addressBytes(text)!).toString('hex'), hex, text)
  }
  for (const text of ['', '1.2.3', '1.2.3.4.5', 'localhost', '1::2::3', '01.2.3.4'])
    t.equal(addressBytes(text), undefined, text)
})
