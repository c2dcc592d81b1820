/** A thread that uses the same proofs as others, round after round, each begun by all of them at the same moment. */
import { workerData } from 'node:worker_threads'
import { type SharedProofs, UsedProofs } from '../../src/identity/used-proofs.ts'

interface Race {
  readonly shared: SharedProofs
  /** Number of arrivals at the start of a round, by all threads together. */
  readonly barrier: Int32Array
  /** How often each proof has passed. */
  readonly counts: Int32Array
  readonly threads: number
  readonly rounds: number
  readonly perRound: number
  readonly index: number
  readonly key: string
  readonly nowS: number
}

const race = workerData as Race
const { shared, barrier, counts, threads, rounds, perRound, key } = race
const used = new UsedProofs(shared)
for (let round = 0; round < rounds; round++) {
  Atomics.add(barrier, 0, 1)
  // Spins: a thread that is woken is too late for the race.
  while (Atomics.load(barrier, 0) < threads * (round + 1));
  // The clocks of two workers differ, and every fourth round the ring has come round.
  const nowS = race.nowS + Math.floor(round / 4) * 80
  for (let i = 0; i < perRound; i++) {
    const at = round * perRound + i
    if (used.use(key, `${at}`, nowS, nowS + race.index / 10) === 'first') Atomics.add(counts, at, 1)
  }
}
