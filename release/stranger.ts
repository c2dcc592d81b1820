/**
 * What somebody does who has a new machine with Node.js and the packed file: installs it, brings PostgreSQL, tries the demo
 * and stops it. smoke.ts runs this on such a machine: `stranger.ts install`, and `stranger.ts demo` without a network.
 */
import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** MB of all that is installed. */
const mostMb = 60
/** CPU ms of a command. */
const mostMs = { '--version': 200, list: 450 } as const
const runs = 10
const program = resolve('node_modules/.bin/dropgate')
const say = (text: string): void => void process.stdout.write(`${text}\n`)

await { install, demo }[process.argv[2] as 'install' | 'demo']()

async function install(): Promise<void> {
  writeFileSync('package.json', '{"private": true}\n')
  done('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', './dropgate.tgz'])
  const manifest = JSON.parse(readFileSync('node_modules/dropgate/package.json', 'utf8'))
  const { version } = manifest as { version: string }
  const pinned = versions('node_modules/dropgate/npm-shrinkwrap.json')
  const installed = versions('node_modules/.package-lock.json')
  delete installed['node_modules/dropgate']
  const inDropgate = Object.entries(pinned).map(([path, each]) => [
    `node_modules/dropgate/${path}`,
    each,
  ])
  deepEqual(installed, Object.fromEntries(inDropgate), 'the pinned versions')
  const mb = bytes('node_modules') / 1e6
  say(`installed: ${Object.keys(installed).length + 1} packages, ${mb.toFixed(1)} MB of ${mostMb}`)
  ok(mb <= mostMb)

  equal(done(program, ['--version']), `${version}\n`)
  const shipped = ['--config', 'node_modules/dropgate/dropgate.yaml']
  match(done(program, ['config', 'check', ...shipped]), /no problem/)
  const { status, stderr } = spawnSync(program, ['serve', ...shipped], { encoding: 'utf8' })
  equal(status, 1, stderr)
  const [, command] = /install it with {2}(npm .+?) {2}/.exec(stderr) ?? []
  done('sh', ['-c', command!])
  say(`\`database: embedded\` names a command, and it brings PostgreSQL:  ${command}`)
}

async function demo(): Promise<void> {
  const child = spawn('npx', ['dropgate', 'demo'], { stdio: ['ignore', 'pipe', 'inherit'] })
  let printed = ''
  child.stdout.on('data', (data) => {
    printed += data
  })
  const ended = new Promise((end) => child.stdout.once('close', end))
  while (!printed.includes('TOKEN=')) {
    if (child.exitCode !== null) throw new Error(`the demo has ended:\n${printed}`)
    await sleep(50)
  }
  const headers = { authorization: `Bearer ${/TOKEN=(\S+)/.exec(printed)![1]}` }
  const status = async (): Promise<number> =>
    (await fetch('http://127.0.0.1:8080/orders', { headers })).status
  process.chdir('dropgate-demo')
  equal(await status(), 200)
  done(program, ['revoke', '--subject', 'alice', '--wait'])
  equal(await status(), 401)
  match(done(program, ['list']), /alice/)
  say('`npx dropgate demo` in an empty folder: alice is let in, and revoked')
  const bareMs = cpuMs(() => done(process.execPath, ['-e', '0']))
  for (const [command, most] of Object.entries(mostMs)) {
    const ms = cpuMs(() => done(program, [command]))
    say(`dropgate ${command}: ${ms} ms of CPU, of ${most} (a bare node: ${bareMs})`)
    ok(ms <= most)
  }
  // npx ends at once; the gate notices, and closes its side of the pipe when it is done.
  child.kill('SIGTERM')
  await ended
  match(printed, /stopping/)
  say('SIGTERM to npx stops it')
}

/** @returns what it printed. */
function done(command: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  equal(status, 0, `${command} ${args.join(' ')}: ${error ?? stderr}`)
  return stdout
}

/** By path. */
function versions(lock: string): Record<string, string> {
  const { packages } = JSON.parse(readFileSync(lock, 'utf8')) as {
    packages: Record<string, { version: string }>
  }
  const named = Object.entries(packages).filter(([path]) => path !== '')
  return Object.fromEntries(named.map(([path, { version }]) => [path, version]))
}

function bytes(folder: string): number {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((name) => statSync(join(folder, name), { throwIfNoEntry: false }))
    .reduce((sum, each) => sum + (each?.isFile() ? each.blocks * 512 : 0), 0)
}

/** CPU of one run, user and system, on average: what the kernel counts of the children that have ended. */
function cpuMs(start: () => void): number {
  const ticks = (): number => {
    const fields = readFileSync('/proc/self/stat', 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
    return Number(fields[13]) + Number(fields[14])
  }
  const before = ticks()
  for (let i = 0; i < runs; i++) start()
  // A tick is 10 ms.
  return Math.round(((ticks() - before) * 10) / runs)
}
