/** A gate that accepts every tenant of an issuer: each tenant is revoked by the issuer that its own tokens name. */
import t from 'tap'
import { TestGate } from '../harness/gate.ts'
import { TestIssuer } from '../harness/issuer.ts'
import { startPostgres } from '../harness/postgres.ts'
import { until } from '../harness/wait.ts'

const issuer = new TestIssuer()
await issuer.open()
const cluster = await startPostgres()
const pattern = `${issuer.url}/{tenantid}/v2.0`
const gate = await TestGate.start({
  beside: { cluster, issuer },
  config: { workers: 1 },
  issuer: {
    issuer: pattern,
    tenants: 'any',
    jwks_uri: `${issuer.url}/jwks`,
    claims: { tenant: '/tid' },
  },
})
const revoker = await gate.revoker()
t.teardown(async () => {
  await gate.stop()
  issuer.close()
  await cluster.close()
})

const [one, two] = [crypto.randomUUID(), crypto.randomUUID()]
const issuerOf = (tid: string): string => pattern.replace('{tenantid}', tid)
const tokenOf = (tid: string, claims: object = {}): Promise<string> =>
  issuer.token('alice', { claims: { iss: issuerOf(tid), tid, ...claims } })
const revoke = async (columns: Record<string, string>): Promise<void> => {
  const names = Object.keys(columns)
  const given = names.map((_, i) => `$${i + 1}`)
  await revoker.query(
    `INSERT INTO dropgate.revocations (${names.join()}) VALUES (${given.join()})`,
    Object.values(columns),
  )
}

t.test('every tenant is accepted, said by its own name, and warned of', async (t) => {
  t.equal((await gate.ask('/orders', await tokenOf(one))).status, 200)
  const told = Object.fromEntries(gate.upstream.seen.at(-1)!.headers)
  t.equal(told['x-dropgate-issuer'], issuerOf(one))
  t.match(
    gate.logged.filter(({ level }) => level === 'warn').map(({ message }) => message),
    [/^any accepts the tokens of every tenant of .*input\.principal\.tenant/],
  )
  const crossed = await gate.ask('/orders', await tokenOf(one, { tid: two }))
  t.same([crossed.status, crossed.code], [401, 'ERR_TOKEN_ISSUER'])
  await until('it is recorded', () => gate.log.some(({ custom }) => custom.code !== undefined))
  t.match(gate.log.find(({ custom }) => custom.code !== undefined)!.custom, {
    code: 'ERR_TOKEN_ISSUER',
    cause: `its tid is "${two}", and its iss names the tenant ${one}`,
  })
})

t.test('a row about one tenant leaves the others alone', async (t) => {
  const [mine, other] = [await tokenOf(one), await tokenOf(two)]
  const codes = async (): Promise<unknown[]> =>
    (await Promise.all([gate.ask('/orders', mine), gate.ask('/orders', other)])).map(
      ({ status, code }) => code ?? status,
    )
  t.same(await codes(), [200, 200])
  const told: (string | undefined)[] = []
  revoker.on('notice', ({ message }) => told.push(message))
  await revoke({ issuer: issuerOf(one), subject: 'alice' })
  await until('in force', async () => (await codes())[0] === 'ERR_REVOKED')
  t.same(await codes(), ['ERR_REVOKED', 200])
  t.same(told, [], 'the database knows that a gate can match the row')
  await revoke({ tenant: two })
  await until('in force', async () => (await codes())[1] === 'ERR_REVOKED')
})
