/** What a running gate can take over from a changed configuration, and what needs a restart. */
import type { GateConfig } from './options.ts'

/** Taken over as a whole; everything else must stay as it was. */
const live = new Set(['routes', 'issuers', 'limits', 'upstream_networks', 'drain_timeout'])
/** Of `limits`: sized once, when a worker starts. */
const sizedOnce = ['token_cache'] as const

/** @returns paths of the options that differ and cannot change while the gate runs */
export function needsRestart(before: GateConfig, after: GateConfig): string[] {
  const paths: string[] = []
  const differ = (a: unknown, b: unknown): boolean => JSON.stringify(a) !== JSON.stringify(b)
  for (const key of Object.keys({ ...before, ...after }) as (keyof GateConfig)[]) {
    if (live.has(key) || key === 'listen') continue
    if (differ(before[key], after[key])) paths.push(key)
  }
  for (const key of sizedOnce) {
    if (differ(before.limits[key], after.limits[key])) paths.push(`limits.${key}`)
  }
  if (differ(before.listen.map(bound), after.listen.map(bound))) paths.push('listen')
  return paths
}

/**
 * What of a listening socket cannot change: all but its certificates. Whether clients are asked for one is decided when
 * the server is made; a change that looked taken over and was not would leave the door open.
 */
function bound({ tls, ...rest }: GateConfig['listen'][number]): unknown {
  const asks = tls === undefined ? undefined : [tls.client_ca !== undefined, tls.client_cert]
  return { ...rest, tls: tls !== undefined, asks }
}
