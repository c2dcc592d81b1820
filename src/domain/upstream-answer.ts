/** An upstream's answer, event by event: `upstream/` reports it, `response/` gives it to the client. */
import type { Duplex } from 'node:stream'
import type { GateError } from '../errors.ts'

/** Exactly one of `onEnd`, `onSwitched` and `onError` comes last. */
export interface UpstreamAnswer {
  /** The interim answer 103 (RFC 8297); it may come several times before the head. */
  onEarlyHints(rawHeaders: readonly Buffer[]): void
  /** @param reason The reason phrase, which may be empty. */
  onHead(
    status: number,
    rawHeaders: readonly Buffer[] | readonly string[],
    flow: Flow,
    reason: string,
  ): void
  onData(chunk: Buffer, flow: Flow): void
  /** @param rawTrailers Flat list of names and values that came after the body. */
  onEnd(rawTrailers: readonly Buffer[]): void
  onError(error: GateError): void
  /** In place of a head: the upstream says that it has switched. Whether rightly is the caller's to see. */
  onSwitched(rawHeaders: readonly Buffer[] | readonly string[], socket: Duplex): void
}

export interface Flow {
  pause(): void
  resume(): void
}
