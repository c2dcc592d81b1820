/** Who imports whom, read from the text of the files. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'

export interface Import {
  readonly from: string
  /** A path like `from`, or the name of a package or of a `node:` module. */
  readonly to: string
  /** Gone before anything runs. */
  readonly typeOnly: boolean
  /** `import()`: loaded when the code comes there. */
  readonly later: boolean
}

/** @param file Its path; what it imports of the project is named from the same folder. */
export function importsIn(file: string, text: string): Import[] {
  const atOnce = text.matchAll(/^(?:import|export) (type )?(?:[^;'"]*? from )?'([^']+)'/gm)
  const later = text.matchAll(/\b(typeof )?import\('([^']+)'\)/g)
  const read = (found: Iterable<RegExpExecArray>, later: boolean): Import[] =>
    Array.from(found, ([, type, to]) => ({
      from: file,
      to: to!.startsWith('.') ? normalize(join(dirname(file), to!)) : to!,
      typeOnly: type !== undefined,
      later,
    }))
  return [...read(atOnce, false), ...read(later, true)]
}

/**
 * What is loaded before the file itself runs: no types, no `import()`.
 * @returns paths from the root of the repository, and the names of packages and of `node:` modules
 */
export function importsOf(file: string): readonly string[] {
  return importsIn(file, readFileSync(file, 'utf8'))
    .filter(({ typeOnly, later }) => !typeOnly && !later)
    .map(({ to }) => to)
}

/** Everything that is loaded with this file, itself included. */
export function loadedWith(file: string): ReadonlySet<string> {
  const loaded = new Set<string>()
  const follow = (each: string): void => {
    if (loaded.has(each)) return
    loaded.add(each)
    if (each.endsWith('.ts') && existsSync(each)) for (const to of importsOf(each)) follow(to)
  }
  follow(file)
  return loaded
}

export interface Source {
  /** From `src/`. */
  readonly file: string
  readonly text: string
}

export function readSources(): readonly Source[] {
  return readdirSync('src', { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts'))
    .sort()
    .map((file) => ({ file, text: readFileSync(join('src', file), 'utf8') }))
}
