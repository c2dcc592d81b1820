/** The demo as its users run it: what it prints is pasted into a shell, and Ctrl-C ends all of it. */
import { type ChildProcess, spawn } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { until } from '../harness/wait.ts'

const checkout = process.cwd()
const base = mkdtempSync(join(tmpdir(), 'dropgate-demo-'))
// PostgreSQL does not run as root: it has to get through.
chmodSync(base, 0o711)
t.teardown(() => rmSync(base, { recursive: true, force: true }))

/** A folder that is like a checkout, with the program of this one. */
function makeCheckout(name: string): string {
  const folder = join(base, name)
  mkdirSync(folder)
  for (const each of ['node_modules', 'src', 'bin'])
    symlinkSync(join(checkout, each), join(folder, each))
  for (const each of ['Makefile', 'package.json', 'dropgate.yaml', 'policies', 'bundles'])
    cpSync(join(checkout, each), join(folder, each), { recursive: true })
  return folder
}

// The test itself may run under npm.
const { npm_command: _command, npm_lifecycle_event: _event, ...ownEnv } = process.env
const direct = [process.execPath, join(checkout, 'bin/dropgate.js'), 'demo']
const ready = 'dropgate is ready on '

class Demo {
  readonly child: ChildProcess
  readonly closed: Promise<number | string | null>
  readonly folder: string
  out = ''
  err = ''

  constructor(folder: string, [command, ...args]: readonly string[], env: NodeJS.ProcessEnv = {}) {
    this.folder = folder
    // A group of its own, as a terminal makes one.
    this.child = spawn(command!, args, {
      cwd: folder,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...ownEnv, ...env },
    })
    this.child.stdout!.on('data', (data) => {
      this.out += data
    })
    this.child.stderr!.on('data', (data) => {
      this.err += data
    })
    this.closed = new Promise((resolve) =>
      this.child.once('close', (code, signal) => resolve(code ?? signal)),
    )
  }

  async ready(): Promise<this> {
    await until(
      () => `ready; it said ${this.out}${this.err}`,
      () => this.out.includes('Ctrl-C ends'),
      120_000,
    )
    return this
  }

  get token(): string {
    return /^ {2}TOKEN=(\S+)$/m.exec(this.out)![1]!
  }

  get origin(): string {
    return /dropgate is ready on (\S+)/.exec(this.out)![1]!
  }

  /** The lines to paste from here on, up to a line that is one of these texts or the end. */
  lines(): string[] {
    const [, behind = ''] = this.out.split(ready)
    return [...behind.matchAll(/^ {2}(\S.*)$/gm)].map(([, line]) => line!)
  }

  /** Ctrl-C. */
  interrupt(): void {
    process.kill(-this.child.pid!, 'SIGINT')
  }

  /** The processes that were started in the folder or name it. */
  processes(): string[] {
    return readdirSync('/proc').filter((pid) => {
      if (!/^\d+$/.test(pid)) return false
      try {
        const { folder } = this
        return (
          readlinkSync(`/proc/${pid}/cwd`).startsWith(folder) ||
          readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(folder)
        )
      } catch {
        return false
      }
    })
  }

  runs(program: string): boolean {
    return this.processes().some((pid) => {
      try {
        return readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === program
      } catch {
        return false
      }
    })
  }

  kill(): void {
    for (const pid of this.processes()) {
      try {
        process.kill(Number(pid), 'SIGKILL')
      } catch {
        // It has ended meanwhile.
      }
    }
  }
}

const ways = {
  node: direct,
  npm: ['npm', 'run', '-s', 'dropgate', '--', 'demo'],
  // Nothing is to be installed into the folder that only leads to the packages of this checkout.
  make: ['make', '-o', 'node_modules/.installed', 'start'],
} as const

for (const [way, command] of Object.entries(ways)) {
  t.test(`${way}: the first Ctrl-C ends a stream as a whole and leaves no process`, async (t) => {
    const demo = new Demo(makeCheckout(way), command)
    t.teardown(() => demo.kill())
    await demo.ready()
    const headers = { authorization: `Bearer ${demo.token}` }
    const stream = await fetch(`${demo.origin}/orders/news`, { headers })
    t.equal(stream.status, 200)
    const name = way === 'node' ? 'dropgate' : 'npm run -s dropgate --'
    t.match(demo.out, `\n  ${name} live`, 'what the user can type')
    const reader = stream.body!.getReader()
    t.match(Buffer.from((await reader.read()).value!).toString(), /^data: still open/)
    t.ok(demo.processes().length > 3, 'PostgreSQL is found')
    demo.interrupt()
    // A cut stream would be an error here.
    for (;;) if ((await reader.read()).done) break
    const exit = await demo.closed
    // make ends by the signal itself, as it tells its own caller.
    if (way !== 'make') t.equal(exit, 0, demo.err)
    t.match(demo.out, /stopping; what is open ends within 1 s \.\.\. \d/)
    t.same(demo.processes(), [])
    const log = readFileSync(join(demo.folder, '.dropgate/postgres/postgres.log'), 'utf8')
    t.match(log, /database system is shut down/)
  })
}

t.test('Ctrl-C during the start leaves no process', async (t) => {
  const steps = [
    'starting the workers and loading the policy',
    'setting PostgreSQL up',
    'starting PostgreSQL',
  ]
  for (const [i, step] of steps.entries()) {
    const folder = join(base, `step-${i}`)
    mkdirSync(folder)
    const demo = new Demo(folder, direct)
    t.teardown(() => demo.kill())
    await until(
      () => `${step}; it said ${demo.out}${demo.err}`,
      () => demo.out.includes(step) && (!step.startsWith('setting') || demo.runs('initdb')),
      120_000,
    )
    demo.interrupt()
    t.equal(await demo.closed, 0, `${step}: ${demo.err}`)
    t.match(demo.out, 'stopping', step)
    t.same(demo.processes(), [], step)
  }
})

/** Holds a port. */
async function holdPort(t: { teardown(end: () => void): void }): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  return (server.address() as { port: number }).port
}

t.test(
  'without a checkout, beside programs on its ports: every printed line does what it says',
  async (t) => {
    const folder = join(base, 'elsewhere')
    const bin = join(base, 'bin')
    for (const each of [folder, bin]) mkdirSync(each)
    symlinkSync(join(checkout, 'bin/dropgate.js'), join(bin, 'dropgate'))
    const held: Record<string, string> = {}
    for (const name of ['GATE', 'ADMIN', 'ISSUER', 'UPSTREAM'])
      held[`DEMO_${name}_PORT`] = String(await holdPort(t))
    const demo = await new Demo(folder, direct, held).ready()
    t.teardown(() => demo.kill())
    for (const port of Object.values(held)) {
      t.match(demo.out, `port ${port} is in use by another program`)
      t.notMatch(demo.out, `:${port}`)
    }
    t.match(demo.out, `  cd ${join(folder, 'dropgate-demo')}\n`)
    t.notMatch(demo.out, /make bundle|npm run/)

    const lines = demo.lines().filter((line) => !line.startsWith('psql '))
    const edit = lines.findIndex((line) => line.endsWith('/reports')) + 1
    const first = await shell(lines.slice(0, edit).join('\n'), {
      PATH: `${bin}:${process.env.PATH}`,
    })
    t.same(
      first.match(/^HTTP\/1.1 \d+/gm)?.map((line) => line.slice(-3)),
      ['200', '401', '403'],
      first,
    )
    t.match(first, '"code":"ERR_REVOKED"')
    t.match(first, /data: still open/)
    t.match(first, 'curl: (18)', 'the stream was cut')
    t.match(first, /INSERT 1.*left the company.*lifted/s)

    const data = join(folder, 'dropgate-demo/policies/data.json')
    const clerk = '"clerk": [{'
    writeFileSync(
      data,
      readFileSync(data, 'utf8').replace(
        clerk,
        `${clerk} "methods": ["GET"], "path": ["reports"] }, {`,
      ),
    )
    const [build, again] = lines.slice(edit)
    t.equal(build, 'dropgate build')
    const setting = lines.slice(0, edit).filter((line) => /^(?:cd|export|sleep) /.test(line))
    const env = { PATH: `${bin}:${process.env.PATH}` }
    t.match(await shell([...setting, build].join('\n'), env), /gate.tar.gz: revision/)
    await until('the new rule is in force', async () =>
      (await shell([...setting, again].join('\n'), env)).includes('HTTP/1.1 200'),
    )
    demo.interrupt()
    t.equal(await demo.closed, 0)
  },
)

/** Runs lines as if they were pasted; the first that fails ends them. @returns all that they print */
function shell(script: string, env: NodeJS.ProcessEnv): Promise<string> {
  const child = spawn('bash', ['-ec', `exec 2>&1\n${script}\nwait`], {
    env: { ...process.env, ...env },
  })
  let out = ''
  child.stdout.on('data', (data) => {
    out += data
  })
  return new Promise((resolve) => child.once('close', () => resolve(out)))
}

t.test('a port that the configuration fixes is named, with the option to change', async (t) => {
  const folder = makeCheckout('fixed')
  const port = await holdPort(t)
  const file = join(folder, 'dropgate.yaml')
  writeFileSync(
    file,
    readFileSync(file, 'utf8').replace('"${DEMO_ADMIN_PORT:-8081}"', String(port)),
  )
  const demo = new Demo(folder, direct)
  t.teardown(() => demo.kill())
  t.equal(await demo.closed, 1)
  t.match(demo.err, `the admin port cannot listen on 127.0.0.1:${port}: the port is in use`)
  t.match(demo.err, 'change admin.port in dropgate.yaml')
  t.same(demo.processes(), [])
})
