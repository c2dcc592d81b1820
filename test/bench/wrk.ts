/** wrk as a second driver: an independent one, so that the figures do not rest on our own. Undefined where it is not found. */
import { spawn, spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'

export interface Wrked {
  readonly answered: number
  readonly failed: number
  readonly seconds: number
  readonly p50Ms: number
  readonly p99Ms: number
}

export const wrkVersion = (): string | undefined =>
  /^wrk (\S+)/.exec(spawnSync('wrk', ['-v'], { encoding: 'utf8' }).stdout ?? '')?.[1]

/**
 * A script that reads one token a line and asks with each in turn, from a file: a million of them do not fit into Lua's
 * memory. Each of wrk's threads begins at the start again.
 */
export function wrkScript(path: string, tokens: string): void {
  writeFileSync(
    path,
    `local file = assert(io.open(${JSON.stringify(tokens)}, "r"))
local headers = { ["User-Agent"] = "bench", ["Accept"] = "*/*" }
function request()
  local token = file:read("*l")
  if token == nil then
    file:seek("set")
    token = file:read("*l")
  end
  headers["Authorization"] = "Bearer " .. token
  return wrk.format("GET", "/orders/7", headers)
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %f %f\\n", summary.requests,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    summary.duration, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
`,
  )
}

export function runWrk(
  script: string,
  port: number,
  { seconds, connections = 64 }: { readonly seconds: number; readonly connections?: number },
): Promise<Wrked> {
  const wrk = spawn('wrk', [
    ...['-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '30s', '-s', script],
    `http://127.0.0.1:${port}/`,
  ])
  let text = ''
  wrk.stdout.on('data', (data) => {
    text += data
  })
  wrk.stderr.on('data', (data) => {
    text += data
  })
  return new Promise((resolve, reject) => {
    wrk.once('error', reject)
    wrk.once('exit', () => {
      const found = /^RESULT (\d+) (\d+) (\d+) (\S+) (\S+)$/m.exec(text)
      if (found === null) return reject(new Error(`wrk: ${text}`))
      const [, answered, failed, us, p50, p99] = found.map(Number)
      resolve({
        ...{ answered: answered!, failed: failed!, seconds: us! / 1e6 },
        ...{ p50Ms: p50!, p99Ms: p99! },
      })
    })
  })
}
