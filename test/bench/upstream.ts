/** The upstream of every run: two bytes for each request, as cheap as can be. Prints its port. */
import { createServer } from 'node:net'

const answer = Buffer.from(
  'HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok',
)
const server = createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => {})
  socket.on('data', (data) => {
    // Requests of these runs have no body and come one at a time; each ends with an empty line.
    if (data.indexOf('\r\n\r\n', Math.max(0, data.length - 4), 'latin1') !== -1)
      socket.write(answer)
  })
}).listen(0, '127.0.0.1', () =>
  process.stdout.write(`${(server.address() as { port: number }).port}\n`),
)
process.on('disconnect', () => process.exit())
