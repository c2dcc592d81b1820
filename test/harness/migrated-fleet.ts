/**
 * Gates of several releases on one database with callers and writers that never pause. Each writer knows which of its
 * callers is revoked, and asks every gate: a gate may let a revoked caller in only until its receipt is there, and
 * refuses no other caller, however long the database is busy with other work.
 */
import type pg from 'pg'
import type { TestIssuer } from './issuer.ts'
import type { GateProcess } from './releases.ts'
import { pause, until } from './wait.ts'

const revoked = '401 ERR_REVOKED'

interface Lift {
  readonly sql: string
  /** A gate estimates the clock of the server anew with each tick: around the end of a row both answers are right. */
  readonly byClock?: true
}

/** How a writer lets its caller in again. */
const lifts: readonly Lift[] = [
  { sql: 'DELETE FROM dropgate.revocations WHERE id = $1' },
  { sql: "UPDATE dropgate.revocations SET issued_before = '2001-01-01Z' WHERE id = $1" },
  {
    sql: "UPDATE dropgate.revocations SET expires_at = created_at + interval '1 ms' WHERE id = $1",
    byClock: true,
  },
]

export class MigratedFleet {
  /** Those that are asked. */
  gates: readonly GateProcess[] = []
  readonly problems: string[] = []
  requests = 0
  /** By the part of the traffic: how often it has done what it does over and over. */
  readonly rounds = new Map<string, number>()
  readonly #issuer: TestIssuer
  readonly #connect: () => Promise<pg.Client>
  #going = true
  #subjects = 0
  #running: Promise<unknown> = Promise.resolve()

  /** @param connect A session of a revoker and lifter */
  constructor(issuer: TestIssuer, connect: () => Promise<pg.Client>) {
    this.#issuer = issuer
    this.#connect = connect
  }

  start(): void {
    const all = [
      this.#repeat('callers who are never revoked', this.#serve()),
      this.#repeat('rows of callers who never come', this.#load()),
      ...lifts.map((lift) => this.#repeat(lift.sql, this.#revokeAndLift(lift))),
    ]
    this.#running = Promise.all(all)
  }

  /** Until each part has done at least one round that begins now or later. @throws Error with the first problem */
  async goOn(): Promise<void> {
    const before = new Map(this.rounds)
    await until(
      'the traffic goes on',
      () => {
        const [problem] = this.problems
        if (problem !== undefined) throw new Error(problem)
        return [...this.rounds].every(([part, rounds]) => rounds >= before.get(part)! + 2)
      },
      100_000,
    )
  }

  async stop(): Promise<void> {
    this.#going = false
    await this.#running
  }

  async #repeat(part: string, opening: Promise<() => Promise<void>>): Promise<void> {
    this.rounds.set(part, 0)
    const round = await opening
    while (this.#going) {
      try {
        await round()
      } catch (error) {
        this.#note(`${part}: ${(error as Error).message}`)
        await this.#pause()
      }
      this.rounds.set(part, this.rounds.get(part)! + 1)
    }
  }

  async #serve(): Promise<() => Promise<void>> {
    const token = await this.#issuer.token('bystander')
    return async () => {
      await Promise.all(this.gates.map((gate) => this.#expect(gate, token, '200')))
      await this.#pause()
    }
  }

  async #load(): Promise<() => Promise<void>> {
    const client = await this.#connect()
    return async () => {
      const { rows } = await client.query(
        `INSERT INTO dropgate.revocations (subject)
         SELECT 'load-' || i FROM generate_series(1, 20) i RETURNING id`,
      )
      const ids = [rows.map(({ id }) => id)]
      await client.query(
        'UPDATE dropgate.revocations SET issued_before = now() WHERE id = ANY ($1)',
        ids,
      )
      await client.query('DELETE FROM dropgate.revocations WHERE id = ANY ($1)', ids)
      await this.#pause()
    }
  }

  async #revokeAndLift({ sql, byClock }: Lift): Promise<() => Promise<void>> {
    const client = await this.#connect()
    return async () => {
      const subject = `caller-${++this.#subjects}`
      const token = await this.#issuer.token(subject)
      const gates = this.gates
      await Promise.all(gates.map((gate) => this.#expect(gate, token, '200')))
      const id = await insert(client, subject)
      await this.#comesIntoForce(gates, token, () => receiptsOf(client, id))
      await client.query(sql, [id])
      await Promise.all(gates.map((gate) => this.#ends(gate, token)))
      if (byClock) return
      await Promise.all(gates.map((gate) => this.#expect(gate, token, '200')))
    }
  }

  async #comesIntoForce(
    gates: readonly GateProcess[],
    token: string,
    receipts: () => Promise<ReadonlySet<string>>,
  ): Promise<void> {
    const denying = new Set<string>()
    await until('every gate has the row in force and says so', async () => {
      // Before the requests: what is confirmed holds for all that come later.
      const confirmed = await receipts()
      const ask = async (gate: GateProcess): Promise<void> => {
        const answer = await this.#ask(gate, token)
        const maySucceed = !denying.has(gate.id) && !confirmed.has(gate.id)
        if (answer !== '200' || !maySucceed) this.#check(gate, answer, revoked)
        if (answer === revoked) denying.add(gate.id)
      }
      await Promise.all(gates.map(ask))
      await this.#pause()
      return gates.every(({ id }) => denying.has(id) && confirmed.has(id))
    })
  }

  async #ends(gate: GateProcess, token: string): Promise<void> {
    await until(`${gate.release.name} lets the caller in again`, async () => {
      const answer = await this.#ask(gate, token)
      if (answer !== '200') this.#check(gate, answer, revoked)
      await this.#pause()
      return answer === '200'
    })
  }

  async #expect(gate: GateProcess, token: string, expected: string): Promise<void> {
    this.#check(gate, await this.#ask(gate, token), expected)
  }

  /** Leaves a busy machine to the gates. */
  #pause(): Promise<void> {
    return pause(30)
  }

  #ask(gate: GateProcess, token: string): Promise<string> {
    this.requests++
    return gate.ask(token)
  }

  #check(gate: GateProcess, answer: string, expected: string): void {
    if (answer !== expected) this.#note(`${gate.release.name}: ${answer} and not ${expected}`)
  }

  #note(problem: string): void {
    this.problems.push(problem)
  }
}

/** As `revoke --wait` does it. */
async function insert(client: pg.Client, subject: string): Promise<unknown> {
  await client.query('BEGIN')
  const { rows } = await client.query(
    'INSERT INTO dropgate.revocations (subject) VALUES ($1) RETURNING id',
    [subject],
  )
  await client.query('SELECT dropgate.expect_receipts($1)', [rows[0].id])
  await client.query('COMMIT')
  return rows[0].id
}

/** @returns ids of the gates that have confirmed a row */
async function receiptsOf(client: pg.Client, id: unknown): Promise<ReadonlySet<string>> {
  const { rows } = await client.query('SELECT gate, ms FROM dropgate.receipts_of($1)', [id])
  return new Set(rows.filter(({ ms }) => ms !== null).map(({ gate }) => gate as string))
}
