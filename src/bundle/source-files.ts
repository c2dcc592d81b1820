/** The files of a folder of policies: which of them are part of a bundle, and when they change. */
import { readdirSync } from 'node:fs'
import { basename, join, relative } from 'node:path'
import { type FSWatcher, watch } from 'chokidar'

/** What opa reads in a folder that is a bundle; the lock files and copies of editors are not among it. */
export function isPartOfBundle(name: string): boolean {
  return /^(?:(?!\.#|\.).*\.rego|data\.(?:json|ya?ml)|\.manifest)$/.test(name)
}

interface SourceFile {
  readonly file: string
  readonly name: string
}

export function filesIn(policies: string): readonly SourceFile[] {
  return readdirSync(policies, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => ({ file: join(parentPath, name), name }))
    .filter(({ file }) => !isForeign(policies, file))
    .sort((a, b) => (a.file < b.file ? -1 : 1))
}

/** The files of Rego in a folder but those of tests. */
export function regoFiles(policies: string): string[] {
  return filesIn(policies)
    .filter(({ name }) => name.endsWith('.rego') && !name.endsWith('_test.rego'))
    .filter(({ name }) => isPartOfBundle(name))
    .map(({ file }) => file)
}

function isForeign(policies: string, file: string): boolean {
  return /(?:^|\/)(?:\.git|node_modules)(?:\/|$)/.test(relative(policies, file))
}

/**
 * How long the folder must keep still. An editor saves by several steps (a temporary file, a rename), and a branch is changed
 * file by file.
 */
const settleMs = 50

/** Calls `onChange` after each change of what is part of the bundle: one call at a time, and one more for what came meanwhile. */
export class SourceWatch {
  readonly #folder: string
  readonly #onChange: () => Promise<void>
  #watcher: FSWatcher | undefined
  #timer: NodeJS.Timeout | undefined
  #isWanted = false
  #work: Promise<void> | undefined

  /** @param onChange Must not reject. */
  constructor(folder: string, onChange: () => Promise<void>) {
    this.#folder = folder
    this.#onChange = onChange
  }

  async open(): Promise<void> {
    const watcher = watch(this.#folder, {
      ignoreInitial: true,
      ignored: (path) => isForeign(this.#folder, path),
    })
    this.#watcher = watcher
    watcher.on('all', (_event, path) => {
      if (!isPartOfBundle(basename(path))) return
      clearTimeout(this.#timer)
      this.#timer = setTimeout(() => this.#want(), settleMs)
    })
    // What cannot be watched is read at the next build, which then says why it cannot be read.
    watcher.on('error', () => this.#want())
    await new Promise<void>((resolve) => watcher.once('ready', () => resolve()))
  }

  #want(): void {
    this.#isWanted = true
    this.#work ??= this.#run()
  }

  async #run(): Promise<void> {
    while (this.#isWanted) {
      this.#isWanted = false
      await this.#onChange()
    }
    this.#work = undefined
  }

  /** Waits for the call that runs. */
  async close(): Promise<void> {
    clearTimeout(this.#timer)
    this.#isWanted = false
    await this.#watcher?.close()
    await this.#work
  }
}
