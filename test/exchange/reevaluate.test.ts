/** What is open is asked again: one that cannot be told about is no reason to forget the others. */
import t from 'tap'
import { addressBytes } from '../../src/domain/address.ts'
import { monotonicUs } from '../../src/domain/clock.ts'
import type { Cut } from '../../src/domain/exchange.ts'
import { kinds, networkKey } from '../../src/domain/revocation.ts'
import type { ExchangeContext } from '../../src/exchange/context.ts'
import { Reevaluator } from '../../src/exchange/reevaluate.ts'
import type { OpenExchange } from '../../src/exchange/stages.ts'
import { LiveRegistry } from '../../src/response/live.ts'
import { Ledger } from '../../src/revocation/ledger.ts'

t.test('an exchange is cut when its worker cannot tell whether a row concerns it', async (t) => {
  const ledger = Ledger.create(100)
  const keys = Buffer.concat([Buffer.of(kinds.network), networkKey(addressBytes('192.0.2.0')!, 24)])
  const always = { cutoffUs: null, exact: false, authTime: false, expiresAtS: null }
  ledger.upsert({ id: 7, keys, ...always })
  ledger.publish()

  const live = new LiveRegistry<OpenExchange>()
  const cuts = new Map<string, Cut>()
  const open = (address: string | undefined): void => {
    const name = String(address)
    const exchange = {
      identified: { principal: undefined, arrived: { peer: { address, certificate: undefined } } },
      startedAtUs: monotonicUs(),
      expiresAtMs: Number.POSITIVE_INFINITY,
      get open() {
        return !cuts.has(name)
      },
      cut: (cut: Cut) => cuts.set(name, cut),
    }
    // No client can come from nowhere any more: what is left here is what the cut goes by.
    live.add(exchange as unknown as OpenExchange)
  }
  for (const address of ['198.51.100.1', undefined, 'nowhere', '192.0.2.9']) open(address)

  const context = { live, ledger } as unknown as ExchangeContext
  await new Reevaluator(() => context).rows(undefined, monotonicUs())
  t.match(cuts.get('undefined'), { reason: 'stale', code: 'ERR_NOT_READY' })
  t.match(cuts.get('nowhere'), { reason: 'stale', code: 'ERR_NOT_READY' })
  t.match(cuts.get('192.0.2.9'), { reason: 'revoked', revocation: 7, code: 'ERR_PEER_REVOKED' })
  t.notOk(cuts.has('198.51.100.1'), 'whom no row concerns is not touched')
})
