/** An upstream's answer, event by event: `upstream/` reports it, `response/` gives it to the client. */
import type { Duplex } from 'node:stream'
import type { GateError } from '../errors.ts'

/** Exactly one of `onEnd`, `onSwitched` and `onError` comes last. */
export interface UpstreamAnswer {
  onHead(status: number, rawHeaders: readonly Buffer[] | readonly string[], flow: Flow): void
  onData(chunk: Buffer, flow: Flow): void
  onEnd(): void
  onError(error: GateError): void
  /** In place of a head: the upstream says that it has switched. Whether rightly is the caller's to see. */
  onSwitched(rawHeaders: readonly Buffer[] | readonly string[], socket: Duplex): void
}

export interface Flow {
  pause(): void
  resume(): void
}
