/** A registry for npm, on loopback: it has the packages that it is given, and no others. */
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

interface Manifest {
  readonly name: string
  readonly version: string
}

export interface Registry {
  readonly url: string
  /** Names of the packages that were fetched. */
  readonly fetched: ReadonlySet<string>
  close(): void
}

/** @param packages What each package.json says, with its `.tgz`. */
export async function startRegistry(
  packages: readonly (readonly [manifest: Manifest, file: string])[],
): Promise<Registry> {
  const fetched = new Set<string>()
  const server = createServer((req, res) => {
    const asked = decodeURIComponent(req.url!.slice(1)).replace(/\.tgz$/, '')
    const found = packages.find(([{ name }]) => name === asked)
    if (found === undefined) {
      res.writeHead(404).end('{}')
    } else if (req.url!.endsWith('.tgz')) {
      fetched.add(asked)
      res.end(readFileSync(found[1]))
    } else {
      res.setHeader('content-type', 'application/json').end(JSON.stringify(document(found[0])))
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const document = (manifest: Manifest): object => {
    const { name, version } = manifest
    const dist = { tarball: `${url}${name}.tgz` }
    return {
      name,
      'dist-tags': { latest: version },
      versions: { [version]: { ...manifest, dist } },
    }
  }
  return {
    url,
    fetched,
    close: () => {
      server.close()
      server.closeAllConnections()
    },
  }
}
