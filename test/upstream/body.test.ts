/** A request body that breaks off after its last listener has gone: the error must not end the worker. */
import { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import t from 'tap'
import { requestBody } from '../../src/upstream/body.ts'

t.test(
  'a client that is lost in the tick in which its exchange ends takes no worker with it',
  async (t) => {
    const req = new IncomingMessage(new Socket())
    const body = requestBody(req, { body_bytes: 0, body_idle: 60_000 }, () => {})
    // What undici does: it listens while it sends, and lets go when the exchange is given up.
    const heard = (): void => {
      t.fail('let go already')
    }
    body.on('error', heard)
    req.emit('error', new Error('aborted'))
    body.off('error', heard)
    await new Promise((resolve) => body.once('close', resolve))
    t.match(body.errored, { message: 'aborted' })
  },
)
