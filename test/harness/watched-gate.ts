/** A whole gate beside a cluster with faults, behind a proxy of its own, whose ledger can be looked into. */
import { rmSync } from 'node:fs'
import type { FeedStatus } from '../../src/feed/feed.ts'
import { Ledger } from '../../src/revocation/ledger.ts'
import type { FaultyCluster } from './faulty-cluster.ts'
import type { Compared } from './follower.ts'
import { TestGate } from './gate.ts'
import type { TestIssuer } from './issuer.ts'
import { PostgresProxy } from './postgres.ts'
import { until } from './wait.ts'

/** A request that begins this long after a commit was acknowledged is refused. */
export const maxStalenessMs = 1000

/** How a gate loses its database: refused, without any answer, or in its feed only, so that its heartbeat goes on. */
export const cuts = ['refused', 'silent', 'feed only'] as const
export type Cut = (typeof cuts)[number]

export interface WatchedOptions {
  readonly cluster: FaultyCluster
  readonly issuer: TestIssuer
  readonly snapshotFile: string
  readonly historyRule?: 'off' | undefined
}

export class WatchedGate {
  readonly proxy = new PostgresProxy()
  readonly #options: WatchedOptions
  #gate: TestGate | undefined
  #ledger: Ledger | undefined
  /** Of the gates that were stopped. */
  readonly #before = { loads: 0, reconnects: 0 }
  #url = ''

  constructor(options: WatchedOptions) {
    this.#options = options
  }

  /** To be called for one gate after the other: their ledgers would be mixed up. */
  async start(): Promise<void> {
    const { cluster, issuer, snapshotFile, historyRule } = this.#options
    if (this.#url === '') {
      this.#url = await this.proxy.open(cluster.cluster.url)
      cluster.proxies.push(this.proxy)
    }
    // A gate shows its ledger to its workers alone.
    const create = Ledger.create
    Ledger.create = (...args) => {
      this.#ledger = create(...args)
      return this.#ledger
    }
    try {
      this.#gate = await TestGate.start({
        ...{ beside: { cluster: cluster.cluster, issuer }, historyRule },
        databaseUrl: async () => this.#url,
        config: {
          workers: 1,
          revocation: {
            ...{ snapshot_file: snapshotFile, tick: '100ms', max_staleness: `${maxStalenessMs}ms` },
            // Only the feed itself may keep the ledger right.
            ...{ verify: '0s', purge: '0s' },
          },
        },
      })
    } finally {
      Ledger.create = create
    }
  }

  get running(): boolean {
    return this.#gate !== undefined
  }

  get gate(): TestGate {
    return this.#gate!
  }

  get id(): string {
    return (this.gate.gate.status() as { id: string }).id
  }

  get feed(): FeedStatus {
    return (this.gate.gate.status() as { feed: FeedStatus }).feed
  }

  get compared(): Compared {
    return { feed: { status: () => this.feed }, ledger: this.#ledger! }
  }

  /** What was counted by this gate and by those that it took the place of. */
  get counted(): { loads: number; reconnects: number } {
    const { loads, reconnects } = this.#gate === undefined ? { loads: 0, reconnects: 0 } : this.feed
    return {
      loads: this.#before.loads + loads,
      reconnects: this.#before.reconnects + reconnects,
    }
  }

  /**
   * Rows that the ledger holds, by id, with the keys that they are filed under. Of one id there may be two: that of a lost
   * history, and one that a notification has brought.
   */
  held(): Map<number, string[]> {
    const held = new Map<number, string[]>()
    for (const { id, keys } of this.#ledger!.entries())
      held.set(id, [...(held.get(id) ?? []), Buffer.from(keys).toString('hex')])
    return held
  }

  /** Two ticks that were sent later have been answered. */
  async ticked(): Promise<void> {
    const { ticks, reconnects } = this.feed
    await until(
      'two ticks',
      () => this.feed.ticks > ticks + 1 || this.feed.reconnects !== reconnects,
    )
  }

  cutOff(how: Cut): void {
    const { proxy } = this
    if (how === 'silent') {
      proxy.silent = true
      return
    }
    if (how === 'refused') proxy.refusing = true
    else proxy.admits = (data) => !data.includes('dropgate feed')
    proxy.cut()
  }

  letIn(): void {
    const { proxy } = this
    // What was sent meanwhile is lost, so that connection can go on no more.
    if (proxy.silent) proxy.cut()
    proxy.silent = false
    proxy.refusing = false
    proxy.admits = () => true
    proxy.dropNotifications = false
    proxy.release()
  }

  /** Until the gate is fresh, and follows with everything that was committed before this call. */
  async followsAgain(): Promise<void> {
    await until(
      'ready',
      () => this.gate.gate.readiness().ready && this.feed.state === 'following',
      60_000,
    ).catch((error: Error) => {
      const said = this.gate.logged.slice(-5).map(({ message }) => message)
      throw new Error(
        `${error.message}: ${JSON.stringify({ ...this.gate.gate.readiness(), feed: this.feed, said })}`,
      )
    })
    const { ticks } = this.feed
    await until('two ticks', () => this.feed.ticks > ticks + 1 && this.feed.state === 'following')
    await until('nothing is provisional', () => this.feed.provisional_rows === 0)
  }

  async stop(): Promise<void> {
    if (this.#gate === undefined) return
    const gate = this.#gate
    Object.assign(this.#before, this.counted)
    this.#gate = undefined
    await gate.stop()
  }

  async close(): Promise<void> {
    this.proxy.close()
    await this.stop()
    rmSync(this.#options.snapshotFile, { force: true })
  }
}
