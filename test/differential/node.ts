/** Ways in which applications on Node find the resource: from careful to careless. */
import { createServer, type Server } from 'node:http'
import { posix } from 'node:path'
import type { DifferentialServer, StartServers } from './server.ts'

const pathOf = (target: string): string => target.split(/[?#]/, 1)[0]!

/** A UTF-8 decoder that accepts what is too long: `%c0%ae` is a dot to it. */
function lax(path: string): string {
  const bytes = Buffer.from(
    path.replace(/%([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16))),
    'latin1',
  )
  let out = ''
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!
    if (byte >= 0xc0 && byte < 0xe0)
      out += String.fromCharCode(((byte & 0x1f) << 6) | (bytes[++i]! & 0x3f))
    else out += String.fromCharCode(byte)
  }
  return out
}

/** Each throws where it would answer 400. */
const readings: Readonly<Record<string, (target: string) => string>> = {
  'node by URL': (target) => decodeURIComponent(new URL(target, 'http://server').pathname),
  'node, decoded and normalised': (target) => posix.normalize(decodeURIComponent(pathOf(target))),
  'node, normalised and decoded': (target) => decodeURIComponent(posix.normalize(pathOf(target))),
  'node, segment by segment': (target) => posix.normalize(pathOf(target).split('/').map(decodeURIComponent).join('/')),
  'node, decoded twice': (target) => posix.normalize(decodeURIComponent(decodeURIComponent(pathOf(target)))),
  'node, backslashes are slashes': (target) => posix.normalize(decodeURIComponent(pathOf(target)).replaceAll('\\', '/')),
  'node, without parameters': (target) => posix.normalize(decodeURIComponent(pathOf(target).replace(/;[^/]*/g, ''))),
  'node, decoded, then without parameters': (target) => posix.normalize(decodeURIComponent(pathOf(target)).replace(/;[^/]*/g, '')),
  'node, up to NUL': (target) => posix.normalize(decodeURIComponent(pathOf(target)).split('\0', 1)[0]!),
  'node, lax UTF-8': (target) => posix.normalize(lax(pathOf(target))),
} // biome-ignore format: a table

export const startNode: StartServers = async () => {
  return await Promise.all(
    Object.entries(readings).map(([name, reading]) => {
      const server = createServer((req, res) => {
        try {
          const resource = reading(req.url!)
          res.end(`resource:${resource}`)
        } catch {
          res.writeHead(400).end()
        }
      })
      return open(name, server)
    }),
  )
}

function open(name: string, server: Server): Promise<DifferentialServer> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      const close = async (): Promise<void> => {
        server.close()
        server.closeAllConnections()
      }
      resolve({ name, origin: `http://127.0.0.1:${port}`, close })
    })
  })
}
