/** The open exchanges of all workers, for operators: lists a page of them, and cuts one. */
import type { LivePage, LiveQuery } from '../admin/live.ts'
import type { LiveEntry } from '../domain/live-entry.ts'
import type { Supervisor } from './supervisor.ts'

export class LiveExchanges {
  readonly #workers: () => Supervisor

  constructor(workers: () => Supervisor) {
    this.#workers = workers
  }

  /** Collects the page worker by worker; a worker that does not answer in time is listed in `silent_workers`. */
  async page({ filter, after, limit }: LiveQuery): Promise<LivePage> {
    const workers = this.#workers()
    const exchanges: LiveEntry[] = []
    const silent: number[] = []
    for (let worker = after.worker; worker < workers.size; worker++) {
      // The page is full at the end of this worker's exchanges: the next page begins with the next worker.
      if (exchanges.length === limit)
        return { exchanges, next: `${worker}.0`, silent_workers: silent }
      const answer = await workers.ask(worker, {
        type: 'list-live',
        filter,
        after: worker === after.worker ? after.seq : 0,
        limit: limit - exchanges.length,
      })
      if (answer === undefined) silent.push(worker)
      else exchanges.push(...answer.entries)
      const more = answer?.last
      if (more !== undefined)
        return { exchanges, next: `${worker}.${more}`, silent_workers: silent }
    }
    return { exchanges, next: null, silent_workers: silent }
  }

  /** Cuts the open exchange with this decision id. @returns the exchange, or undefined when it is not open */
  async cut(id: string): Promise<LiveEntry | undefined> {
    const workers = this.#workers()
    const asked = Array.from({ length: workers.size }, (_, worker) =>
      workers.ask(worker, { type: 'cut-live', id }),
    )
    return (await Promise.all(asked)).flatMap((answer) => answer?.entries ?? [])[0]
  }
}
