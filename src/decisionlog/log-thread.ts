/**
 * The log thread: receives lines from all workers and writes them. It owns the sink.
 */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { asGateError, type GateErrorData } from '../errors.ts'
import type { LogBatch } from '../messages.ts'
import { Sink, type SinkConfig } from './sink.ts'

export type LogCommand =
  | { readonly type: 'port'; readonly port: MessagePort }
  | { readonly type: 'reopen' }
  | { readonly type: 'close' }

export type LogReport =
  | { readonly type: 'open' }
  | { readonly type: 'reopened' }
  | { readonly type: 'closed' }
  | {
      readonly type: 'failed'
      readonly error: GateErrorData
      /** Lines that were not written. */
      readonly lost: number
    }

const port = parentPort!
const report = (message: LogReport): void => port.postMessage(message)

function run(sink: Sink): void {
  const ports = new Set<MessagePort>()
  port.on('message', (command: LogCommand) => {
    if (command.type === 'close') {
      // Close only in a later turn: lines that a worker sent before it ended are still in the queue of its port.
      setImmediate(() => {
        for (const each of ports) each.close()
        sink.close()
        report({ type: 'closed' })
        port.close()
      })
      return
    }
    if (command.type === 'reopen') reopen()
    else serve(command.port)
  })
  const reopen = (): void => {
    try {
      if (sink.reopen()) report({ type: 'reopened' })
    } catch (error) {
      report({ type: 'failed', error: asGateError(error).data, lost: 0 })
    }
  }
  const write = (bytes: Uint8Array, lines: number): void => {
    try {
      sink.write(bytes)
    } catch (error) {
      report({ type: 'failed', error: asGateError(error, 'ERR_CONFIG_FILE').data, lost: lines })
    }
  }
  const serve = (from: MessagePort): void => {
    ports.add(from)
    const chunks: { readonly bytes: Uint8Array; readonly handedOver: Int32Array }[] = []
    from.on('message', (batch: LogBatch) => {
      if (batch.type === 'memory') {
        const { memory, handedOver } = batch
        chunks[batch.index] = { bytes: new Uint8Array(memory), handedOver }
        return
      }
      const { bytes, handedOver } = chunks[batch.index]!
      if (batch.type === 'long') write(batch.bytes, 1)
      else write(bytes.subarray(0, batch.length), batch.lines)
      Atomics.store(handedOver, batch.index, 0)
    })
    from.on('close', () => ports.delete(from))
  }
  report({ type: 'open' })
}

try {
  run(new Sink(workerData as SinkConfig))
} catch (error) {
  report({ type: 'failed', error: asGateError(error).data, lost: 0 })
}
