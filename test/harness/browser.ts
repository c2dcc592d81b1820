/**
 * A real Chromium without a window, driven by the DevTools protocol over a pipe: JSON messages, each ended by a NUL byte, in on
 * descriptor 3 and out on descriptor 4. `CHROMIUM` may name the program.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { until } from './wait.ts'

export const chromium = [
  process.env.CHROMIUM ?? '',
  'chromium',
  'chromium-browser',
  'google-chrome',
].find((name) => name !== '' && spawnSync(name, ['--version']).error === undefined)

/** For `skip` of a test. */
export const withoutChromium = chromium === undefined ? 'Chromium is not installed here' : false

interface Reply {
  readonly id?: number
  readonly result?: Record<string, unknown>
  readonly error?: { readonly message: string }
}

export class Browser {
  readonly #profile = mkdtempSync(join(tmpdir(), 'dropgate-chromium-'))
  readonly #waiting = new Map<number, PromiseWithResolvers<Record<string, unknown>>>()
  readonly #process: ChildProcess
  readonly #gone: Promise<void>
  #last = 0

  constructor() {
    const args = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage']
    args.push('--no-first-run', '--disable-background-networking', '--remote-debugging-pipe')
    this.#process = spawn(chromium!, [...args, `--user-data-dir=${this.#profile}`], {
      stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
    })
    this.#gone = new Promise((resolve) => this.#process.once('exit', () => resolve()))
    for (const pipe of this.#process.stdio) pipe?.on('error', () => {})
    const output = this.#process.stdio[4] as Readable
    let rest = ''
    output.setEncoding('utf8').on('data', (data: string) => {
      const messages = (rest + data).split('\0')
      rest = messages.pop()!
      for (const message of messages) this.#settle(JSON.parse(message))
    })
    output.once('close', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error('Chromium is gone'))
    })
  }

  #settle({ id, result, error }: Reply): void {
    // What has no id is an event, and no test asks for one.
    if (id === undefined) return
    const waiting = this.#waiting.get(id)
    this.#waiting.delete(id)
    if (error === undefined) waiting?.resolve(result!)
    else waiting?.reject(new Error(error.message))
  }

  send(method: string, params: object, sessionId?: string): Promise<Record<string, unknown>> {
    const id = ++this.#last
    const waiting = Promise.withResolvers<Record<string, unknown>>()
    this.#waiting.set(id, waiting)
    const input = this.#process.stdio[3] as Writable
    input.write(`${JSON.stringify({ id, method, params, sessionId })}\0`)
    return waiting.promise
  }

  /** A new tab, once `url` is loaded in it. */
  async open(url: string): Promise<Page> {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' })
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true })
    const page = new Page(this, sessionId as string, targetId as string)
    await page.go(url)
    return page
  }

  async close(): Promise<void> {
    this.#process.kill()
    await this.#gone
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 10 })
  }
}

export class Page {
  readonly #browser: Browser
  readonly #session: string
  readonly #target: string

  constructor(browser: Browser, session: string, target: string) {
    this.#browser = browser
    this.#session = session
    this.#target = target
  }

  async go(url: string): Promise<void> {
    const { errorText } = await this.#browser.send('Page.navigate', { url }, this.#session)
    if (errorText !== undefined) throw new Error(`${url}: ${errorText}`)
    const path = new URL(url).pathname
    await until(`${url} is loaded`, () => this.#is(path))
  }

  /** Does what leads to another document, and returns the text of that one. */
  async leave(script: string, path: string): Promise<string> {
    await this.run(`${script}; 0`)
    await until(`the document at ${path}`, () => this.#is(path))
    return this.run('document.body.innerText')
  }

  async #is(path: string): Promise<boolean> {
    // Between two documents there is none that could answer.
    const at = await this.run<string>('document.readyState + location.pathname').catch(() => '')
    return at === `complete${path}`
  }

  /** @returns what the expression, or its promise, comes to, as JSON */
  async run<T = string>(expression: string): Promise<T> {
    const params = { expression, awaitPromise: true, returnByValue: true }
    const answer = await this.#browser.send('Runtime.evaluate', params, this.#session)
    const { result, exceptionDetails } = answer as {
      result: { value: T }
      exceptionDetails?: { text: string; exception?: { description?: string } }
    }
    if (exceptionDetails !== undefined) {
      const { text, exception } = exceptionDetails
      throw new Error(`in the page: ${exception?.description ?? text}`)
    }
    return result.value
  }

  async close(): Promise<void> {
    await this.#browser.send('Target.closeTarget', { targetId: this.#target })
  }
}
