/**
 * Decides which changes of the configuration a running gate can apply and which need a restart.
 */
import type { GateConfig } from './options.ts'

/** Sections that a running gate applies; every other section needs a restart when it changes. */
const live = new Set(['routes', 'issuers', 'limits', 'upstream_networks', 'drain_timeout'])
/** Keys of `limits` that are read only at the start of a worker or of the gate. */
const sizedOnce = ['token_cache', 'known_signatures', 'dpop_proofs', 'dpop_proof_age'] as const

/** @returns Paths of the options that differ and cannot change while the gate runs. */
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
 * Returns the options of a listening socket that cannot change while it is open: all but its certificates. The server
 * decides when it is created whether it asks for client certificates. If a reload seemed to turn that on but did not,
 * clients without a certificate would still be accepted.
 */
function bound({ tls, ...rest }: GateConfig['listen'][number]): unknown {
  const asks = tls === undefined ? undefined : [tls.client_ca !== undefined, tls.client_cert]
  return { ...rest, tls: tls !== undefined, asks }
}
