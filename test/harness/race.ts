/**
 * Rows against beginnings: each exchange of a subject of its own, each row committed at a random moment around its
 * beginning. Whichever comes first, the exchange must be refused or cut.
 */
import type { TestGate } from './gate.ts'
import { kinds, OpenStream, type StreamUpstream } from './streams.ts'
import { pause, seeded, seedOf, until } from './wait.ts'

export interface Raced {
  readonly seed: number
  /** Answered with a refusal in place of a stream: 401, or 503 where the machine was too busy to prove freshness. */
  readonly refused: number
  readonly cut: number
  /** What came to another end. */
  readonly escaped: readonly string[]
}

const atOnce = 16
/** The row, the request and the upstream's first byte each fall somewhere in this time. */
const spreadMs = 12

export async function raceRows(
  gate: TestGate,
  upstream: StreamUpstream,
  rounds: number,
): Promise<Raced> {
  const seed = seedOf()
  const random = seeded(seed)
  const escaped: string[] = []
  let next = 0
  let refused = 0
  let cut = 0
  const runner = async (): Promise<void> => {
    const revoker = await gate.revoker()
    while (next < rounds) {
      const i = next++
      const kind = kinds[i % kinds.length]!
      const subject = `race-${seed}-${i}`
      const token = await gate.issuer.token(subject, { claims: { roles: ['manager'] } })
      const [answers, begins, commits] = [random(), random(), random()].map((x) => x * spreadMs)
      const opened = pause(begins!).then(
        () => new OpenStream(kind, subject, gate.port, token, { delay: Math.floor(answers!) }),
      )
      await pause(commits!)
      await revoker.query('INSERT INTO dropgate.revocations (subject) VALUES ($1)', [subject])
      const held = await opened
      await until(`${kind} ${i} ends (SEED=${seed})`, () => held.ended !== undefined, 30_000)
      if (held.status === 401 || held.status === 503) refused++
      else if (held.ended === 'end') escaped.push(`${kind} ${i}: ${held.status}`)
      else cut++
      upstream.served.delete(subject)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, runner))
  return { seed, refused, cut, escaped }
}
