/** Reads deploy/container/compose.yaml by the library by which Docker Compose reads it, which knows every key and relation. */
import { deepEqual } from 'node:assert/strict'
import { join } from 'node:path'
import { run } from '../stage.ts'
import { builtByGo } from './tools.ts'

const version = 'v2.16.2'

export function tryCompose(say: (text: string) => void): void {
  const program = `github.com/compose-spec/compose-go/v2/cmd@${version}`
  const reader = builtByGo('the Compose file', program, say)
  if (reader === undefined) return
  const folder = join(import.meta.dirname, '../../deploy/container')
  const { services } = JSON.parse(run(reader, ['-format', 'json', 'compose.yaml'], folder)) as {
    services: object
  }
  deepEqual(Object.keys(services).sort(), ['gate', 'migrate', 'postgres'])
  say(`compose.yaml: read by compose-go ${version}; no Docker daemon ran it`)
}
