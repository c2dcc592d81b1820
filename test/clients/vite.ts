/** Vite's dev server: modules, and hot reload of one of them, as its own client sees it and in Chromium where it is there. */
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import WebSocket from 'ws'
import { freePort } from '../bench/machine.ts'
import { Browser, withoutChromium } from '../harness/browser.ts'
import { until } from '../harness/wait.ts'
import { type Client, demand, type Entrance, temporary } from './client.ts'
import { folder as packages } from './packages.ts'

const page = `<!doctype html><meta charset="utf-8"><title>app</title><p></p>
<script type="module" src="./src/[name].js"></script>`
const main = `
import { text } from './text.js'
const show = (text) => { document.querySelector('p').textContent = text }
show(text)
import.meta.hot?.accept('./text.js', ({ text }) => show(text))
`
const text = (of: string): string => `export const text = 'Zoë ${of}'\n`

/** The dev server is a process of its own. */
export async function vite(): Promise<Client> {
  const app = temporary()
  mkdirSync(join(app, 'src'))
  writeFileSync(join(app, 'index.html'), page)
  writeFileSync(join(app, 'src', '[name].js'), main)
  writeFileSync(join(app, 'src', 'text.js'), text('first'))
  const port = await freePort()
  const options = ['--base', '/vite/', '--host', '127.0.0.1', '--port', String(port)]
  const program = join(packages, 'node_modules/vite/bin/vite.js')
  const args = [program, app, '--strictPort', '--clearScreen', 'false', ...options]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: app })
  process.once('exit', () => child.kill())
  let told = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (data) => {
      told += data
    })
  await until(
    () => `vite: ${told}`,
    () => /ready in/.test(told) || child.exitCode !== null,
  )
  demand(child.exitCode === null, told)
  return {
    name: 'vite',
    upstream: async () => `http://127.0.0.1:${port}`,
    route: {},
    run: (entrance) => walk(join(app, 'src', 'text.js'), entrance),
    close: () => void child.kill(),
  }
}

async function walk(changed: string, entrance: Entrance): Promise<string> {
  const headers = { authorization: `Bearer ${await entrance.token('alice')}` }
  const get = async (path: string): Promise<string> => {
    const answer = await fetch(`${entrance.origin}/vite/${path}`, { headers })
    demand(answer.status === 200, `${path} is ${answer.status}`)
    return answer.text()
  }
  demand((await get('')).includes('/vite/@vite/client'), 'the page has no client of vite')
  demand((await get('src/[name].js')).includes('/vite/src/text.js'), 'no module')
  const [, token = ''] = /wsToken = "([^"]+)"/.exec(await get('@vite/client')) ?? []
  const url = `${entrance.origin.replace('http', 'ws')}/vite/?token=${token}`
  const socket = new WebSocket(url, 'vite-hmr', { headers, origin: entrance.origin })
  const messages: { type: string; updates?: { acceptedPath: string }[] }[] = []
  const ends: string[] = []
  socket.on('message', (data) => messages.push(JSON.parse(data.toString())))
  socket.on('error', ({ message }) => ends.push(message))
  await until(
    () => `connected: ${ends.join()}`,
    () => messages.some(({ type }) => type === 'connected') || ends.length > 0,
  )
  demand(ends.length === 0, `its WebSocket: ${ends.join()}`)
  const browser = withoutChromium === false ? new Browser() : undefined
  try {
    const tab = await browser?.open(`${entrance.origin}/public?as=${await entrance.token('alice')}`)
    await tab?.go(`${entrance.origin}/vite/`)
    const shown = (): Promise<string> => tab!.run("document.querySelector('p').textContent")
    if (tab !== undefined) await until('the module ran', async () => (await shown()) === 'Zoë first')
    await tab?.run('globalThis.kept = true')
    writeFileSync(changed, text('second'))
    await until('hot reload', () =>
      messages.some(({ updates }) => updates?.[0]?.acceptedPath === '/src/text.js'),
    )
    demand((await get('src/text.js')).includes('Zoë second'), 'the module is the old one')
    if (tab === undefined) return `served modules and [name].js; hot reload came over the WebSocket; ${withoutChromium}`
    await until('the page shows it', async () => (await shown()) === 'Zoë second')
    demand(await tab.run<boolean>('globalThis.kept === true'), 'the page was loaded anew')
    return 'served modules and [name].js; hot reload came over the WebSocket, and Chromium changed the page without loading it anew'
  } finally {
    socket.close()
    await browser?.close()
  }
} // biome-ignore format: sentences in one line
