/** The ways in which the history of a server breaks off, each with what has to be ready before the commits that it loses. */
import type { FaultyCluster } from './faulty-cluster.ts'
import { restoreDump, saveDump } from './restored-dump.ts'

/** Brings the fault about. */
export type Strike = () => Promise<void>

/** @param write Lets writers do something: what a standby gets, or what a server does that another one takes the place of. */
type Fault = (
  cluster: FaultyCluster,
  random: () => number,
  write: () => Promise<void>,
) => Promise<Strike>

export const faults = {
  'one process killed': async (cluster, random) => () => cluster.killOne(random),
  'all processes killed': async (cluster) => async () => {
    await cluster.server.kill()
    await cluster.server.start()
  },
  'immediate stop': async (cluster) => async () => {
    await cluster.server.stop('immediate')
    await cluster.server.start()
  },
  'restart in order': async (cluster) => async () => {
    await cluster.server.stop('fast')
    await cluster.server.start()
  },
  'promotion without loss': async (cluster) => {
    const standby = await cluster.standby(await cluster.coldCopy(), 'streams')
    return () => cluster.promote(standby, 'in order')
  },
  'promotion of a standby that streamed': async (cluster) => {
    const standby = await cluster.standby(await cluster.coldCopy(), 'streams')
    return () => cluster.promote(standby)
  },
  'promotion of a standby that fell behind': async (cluster, _random, write) => {
    const standby = await cluster.standby(await cluster.coldCopy(), 'streams')
    await write()
    standby.stopFollowing()
    return () => cluster.promote(standby)
  },
  'promotion of a standby that lags': async (cluster) => {
    const standby = await cluster.standby(await cluster.coldCopy(), 'lags')
    return () => cluster.promote(standby)
  },
  'two promotions to one timeline': async (cluster, _random, write) => {
    const copy = await cluster.coldCopy()
    const second = await cluster.standby(cluster.copyOf(copy), 'lags')
    const first = await cluster.standby(copy, 'lags')
    return async () => {
      await cluster.promote(first)
      await write()
      await cluster.promote(second)
    }
  },
  'cold copy put back': async (cluster, random) => {
    const copy = await cluster.coldCopy()
    const old = cluster.keptCopy
    if (old !== undefined && random() < 0.3) {
      cluster.keptCopy = undefined
      return () => cluster.putBack(old)
    }
    cluster.keptCopy ??= cluster.copyOf(copy)
    return () => cluster.putBack(copy)
  },
  'hot copy put back': async (cluster) => {
    const copy = cluster.hotCopy()
    return () => cluster.putBack(copy)
  },
  'dump restored in place': async (cluster) => {
    const client = await cluster.connect()
    await saveDump(client)
    await client.end()
    return async () => {
      const restoring = await cluster.connect()
      await restoreDump(restoring)
      await restoring.end()
    }
  },
} as const satisfies Record<string, Fault>

export type FaultName = keyof typeof faults
export const faultNames = Object.keys(faults) as FaultName[]
