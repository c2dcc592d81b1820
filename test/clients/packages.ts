/** The packages of real clients, in `.tools/clients`: npm puts them there when the soak runs, and nothing else needs them. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { run } from './client.ts'

export const folder = resolve('.tools/clients')

const dependencies = {
  graphql: '17.1.0',
  'graphql-ws': '6.4.2',
  'socket.io': '4.8.4',
  'socket.io-client': '4.8.4',
  vite: '8.4.0',
  ws: '8.23.0',
}

/** @returns undefined, or why they cannot be had */
export async function install(): Promise<string | undefined> {
  const manifest = JSON.stringify({ private: true, dependencies }, null, 2)
  const at = join(folder, 'package.json')
  const done = join(folder, 'node_modules', '.package-lock.json')
  if (existsSync(done) && readFileSync(at, 'utf8') === manifest) return undefined
  mkdirSync(folder, { recursive: true })
  writeFileSync(at, manifest)
  // The registry and the proxy of this machine stand in the environment, or in the settings of its user.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(
      (entry): entry is [string, string] => entry[1] !== undefined && entry[0] !== 'NODE_OPTIONS',
    ),
  )
  const command = ['npm', 'install', '--no-audit', '--no-fund', '--ignore-scripts']
  const { status, err } = await run(command, folder, env).catch((error: Error) => ({
    status: null,
    err: error.message,
  }))
  return status === 0 ? undefined : `npm could not install them: ${err.trim().split('\n')[0]}`
}

/** As code in that folder would load it. */
export function load<T>(name: string): T {
  return createRequire(join(folder, 'package.json'))(name) as T
}
