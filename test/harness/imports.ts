/** Who imports whom, read from the text of the files: type-only imports are gone before anything runs, so they do not count. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'

/** @returns paths from the root of the repository, and the names of packages and of `node:` modules */
export function importsOf(file: string): readonly string[] {
  const text = readFileSync(file, 'utf8')
  const found = text.matchAll(/^(?:import|export) (?!type )(?:[^;'"]*? from )?'([^']+)'/gm)
  return [...found].map(([, to]) =>
    to!.startsWith('.') ? normalize(join(dirname(file), to!)) : to!,
  )
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
