/** The log thread: takes batches from every worker's port and writes them. Owns the sink. */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { asGateError } from '../errors.ts'
import type { LogBatch } from '../messages.ts'
import { Sink, type SinkConfig } from './sink.ts'

export type LogCommand =
  | { readonly type: 'port'; readonly port: MessagePort; readonly backlog: SharedArrayBuffer }
  | { readonly type: 'close' }

export type LogReport =
  | { readonly type: 'open' }
  | { readonly type: 'closed' }
  | {
      readonly type: 'failed'
      readonly code: string
      readonly message: string
      readonly lost: number
    }

const port = parentPort!
const report = (message: LogReport): void => port.postMessage(message)

function run(sink: Sink): void {
  const ports = new Set<MessagePort>()
  port.on('message', (command: LogCommand) => {
    if (command.type === 'close') {
      // Ports are read to the end first: what a worker sent before it ended is in their queues.
      setImmediate(() => {
        for (const each of ports) each.close()
        sink.close()
        report({ type: 'closed' })
        port.close()
      })
      return
    }
    const backlog = new Int32Array(command.backlog)
    ports.add(command.port)
    command.port.on('message', ({ bytes, lines, size }: LogBatch) => {
      try {
        sink.write(bytes)
      } catch (error) {
        const { code, message } = asGateError(error, 'ERR_CONFIG_FILE')
        report({ type: 'failed', code, message, lost: lines })
      }
      Atomics.sub(backlog, 0, size)
    })
    command.port.on('close', () => ports.delete(command.port))
  })
  report({ type: 'open' })
}

try {
  run(new Sink(workerData as SinkConfig))
} catch (error) {
  const { code, message } = asGateError(error)
  report({ type: 'failed', code, message, lost: 0 })
}
