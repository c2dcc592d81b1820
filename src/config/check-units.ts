/**
 * Checks every duration and size against the table of options: 0 is accepted where the table says what it means, and a
 * duration that a timer waits for must not be longer than a timer can be.
 */
import { longestTimerMs } from './option-kinds.ts'
import { schema } from './options.ts'
import type { AddProblem, Problems } from './problems.ts'

interface Node {
  readonly properties?: Readonly<Record<string, Node>>
  readonly items?: Node
  readonly 'x-unit'?: string
  readonly 'x-zero'?: string
  readonly 'x-compared'?: true
}

/** @param config The complete configuration, with units resolved; what already has a problem is skipped. */
export function checkUnits(config: object, problems: Problems, value: AddProblem): void {
  visit(schema as Node, config, '')

  function visit(node: Node, found: unknown, at: string): void {
    if (found === undefined || found === null) return
    const { properties, items } = node
    if (properties !== undefined) {
      for (const [key, child] of Object.entries(properties))
        visit(child, (found as Record<string, unknown>)[key], at === '' ? key : `${at}.${key}`)
    } else if (items?.properties !== undefined) {
      for (const [i, item] of (found as unknown[]).entries()) visit(items, item, `${at}[${i}]`)
    } else {
      const problem = problemOf(node, found)
      if (problem !== undefined && problems.sound(at)) value(at, problem)
    }
  }
}

function problemOf(node: Node, found: unknown): string | undefined {
  const unit = node['x-unit']
  if (unit !== 'duration' && unit !== 'size') return undefined
  if (found === 0 && node['x-zero'] === undefined)
    return unit === 'duration'
      ? 'with 0s nothing could work here; write a longer time'
      : 'with 0B nothing could work here; write a larger size'
  if (unit === 'duration' && !node['x-compared'] && (found as number) > longestTimerMs)
    return 'expected at most 24d; no timer can wait for longer'
  return undefined
}
