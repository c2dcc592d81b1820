/**
 * Parses the part of Go's `text/template` that policies may use: fields, variables, pipelines, `if`, `with`, `range`.
 * Named templates, `break`, `continue` and escaping functions are refused with an error that names them.
 */
import { BuiltinError, refuseWork } from '../values/operand.ts'

export type Term =
  | { readonly kind: 'dot' }
  | { readonly kind: 'text'; readonly value: string }
  | { readonly kind: 'literal'; readonly value: number | boolean | null }
  | { readonly kind: 'variable'; readonly name: string }
  | { readonly kind: 'function'; readonly name: string }
  | { readonly kind: 'group'; readonly pipeline: Pipeline }
export interface Operand {
  readonly term: Term
  /** Field names that follow the term. */
  readonly fields: readonly string[]
}
export interface Pipeline {
  readonly declared: readonly string[]
  readonly assigns: boolean
  readonly commands: readonly (readonly Operand[])[]
}
export type Node =
  | { readonly kind: 'text'; readonly value: string }
  | { readonly kind: 'print'; readonly pipeline: Pipeline }
  | {
      readonly kind: 'if' | 'with' | 'range'
      readonly pipeline: Pipeline
      readonly body: readonly Node[]
      readonly otherwise: readonly Node[]
    }

export const functions = [
  'and', 'or', 'not', 'len', 'index', 'print', 'println', 'printf', 'eq', 'ne', 'lt', 'le', 'gt', 'ge',
] // biome-ignore format: a list

/** Most characters of a template, and most nested levels. */
const maxLength = 1 << 16
const maxDepth = 100

/** @throws BuiltinError */
export function readTemplate(source: string): readonly Node[] {
  if (source.length > maxLength) refuseWork(`a template of more than ${maxLength} characters`)
  const reader = new TemplateReader(pieces(source))
  const nodes = reader.nodes(0)
  reader.end()
  return nodes
}

type Piece =
  | { readonly kind: 'text'; readonly value: string }
  | { readonly kind: 'action'; readonly tokens: readonly string[] }

function pieces(source: string): Piece[] {
  const out: Piece[] = []
  let [at, trim] = [0, false]
  for (;;) {
    const open = source.indexOf('{{', at)
    let text = source.slice(at, open === -1 ? source.length : open)
    if (trim) text = text.trimStart()
    const trimsLeft = open !== -1 && /^\{\{-\s/.test(source.slice(open, open + 4))
    if (trimsLeft) text = text.trimEnd()
    if (text !== '') out.push({ kind: 'text', value: text })
    if (open === -1) return out
    const tokens: string[] = []
    at = open + (trimsLeft ? 3 : 2)
    trim = false
    for (;;) {
      const token = /\s*(?:\/\*[\s\S]*?\*\/)?\s*/y
      token.lastIndex = at
      const skipped = token.exec(source)![0].length
      at += skipped
      if (skipped > 0 && source.startsWith('-}}', at)) {
        trim = true
        at += 3
        break
      }
      if (source.startsWith('}}', at)) {
        at += 2
        break
      }
      const next =
        /"(?:[^"\\\n]|\\.)*"|`[^`]*`|:=|[=|(),]|-?[0-9][0-9A-Za-z_.+-]*|\$?[\p{L}_][\p{L}\p{Nd}_]*|\$|\.[\p{L}_][\p{L}\p{Nd}_]*|\./uy
      next.lastIndex = at
      const found = next.exec(source)
      if (found === null) throw new BuiltinError('the template has an action that cannot be read')
      // A field after a space starts a new operand: `.a .b` are two operands.
      tokens.push(skipped > 0 && found[0].startsWith('.') ? ` ${found[0]}` : found[0])
      at += found[0].length
    }
    if (tokens.length > 0) out.push({ kind: 'action', tokens })
  }
}

class TemplateReader {
  readonly #pieces: readonly Piece[]
  #at = 0

  constructor(all: readonly Piece[]) {
    this.#pieces = all
  }

  end(): void {
    if (this.#at < this.#pieces.length) throw new BuiltinError('unexpected {{end}} or {{else}}')
  }

  /** Reads nodes up to an `end` or `else`, which is not consumed. */
  nodes(depth: number): Node[] {
    if (depth > maxDepth) refuseWork('a template that is nested too deeply')
    const out: Node[] = []
    for (let piece = this.#pieces[this.#at]; piece !== undefined; piece = this.#pieces[this.#at]) {
      if (piece.kind === 'text') out.push(piece)
      else {
        const [first, ...rest] = piece.tokens as [string, ...string[]]
        if (first === 'end' || first === 'else') return out
        if (first === 'if' || first === 'with' || first === 'range') {
          this.#at++
          out.push(this.#block(first, rest, depth))
          continue
        }
        if (['define', 'template', 'block', 'break', 'continue'].includes(first)) {
          refuseWork(`strings.render_template does not have {{${first}}}`)
        }
        out.push({ kind: 'print', pipeline: new PipelineReader(piece.tokens).whole() })
      }
      this.#at++
    }
    return out
  }

  #block(kind: 'if' | 'with' | 'range', tokens: readonly string[], depth: number): Node {
    const pipeline = new PipelineReader(tokens).whole()
    const body = this.nodes(depth + 1)
    const closing = this.#pieces[this.#at++]
    if (closing?.kind !== 'action') throw new BuiltinError('missing {{end}}')
    const [word, next, ...rest] = closing.tokens
    if (word === 'end') return { kind, pipeline, body, otherwise: [] }
    if (next === 'if' || next === 'with') {
      return { kind, pipeline, body, otherwise: [this.#block(next, rest, depth + 1)] }
    }
    const otherwise = this.nodes(depth + 1)
    const end = this.#pieces[this.#at++]
    if (end?.kind !== 'action' || end.tokens[0] !== 'end') throw new BuiltinError('missing {{end}}')
    return { kind, pipeline, body, otherwise }
  }
}

class PipelineReader {
  readonly #tokens: readonly string[]
  #at = 0

  constructor(tokens: readonly string[]) {
    this.#tokens = tokens
  }

  whole(): Pipeline {
    const pipeline = this.#pipeline(0)
    if (this.#at < this.#tokens.length)
      throw new BuiltinError(`unexpected ${this.#tokens[this.#at]}`)
    return pipeline
  }

  #pipeline(depth: number): Pipeline {
    if (depth > maxDepth) refuseWork('a template that is nested too deeply')
    const ahead = this.#tokens.slice(this.#at, this.#at + 4)
    const isVariable = (token: string | undefined): boolean => /^\$./.test(token ?? '')
    let declared: readonly string[] = []
    let assigns = false
    if (isVariable(ahead[0])) {
      const two = ahead[1] === ',' && isVariable(ahead[2])
      const sign = ahead[two ? 3 : 1]
      if (sign === ':=' || (sign === '=' && !two)) {
        declared = two ? [ahead[0]!, ahead[2]!] : [ahead[0]!]
        assigns = sign === '='
        this.#at += two ? 4 : 2
      }
    }
    const commands = [this.#command(depth)]
    while (this.#tokens[this.#at] === '|') {
      this.#at++
      commands.push(this.#command(depth))
    }
    return { declared, assigns, commands }
  }

  #command(depth: number): Operand[] {
    const operands: Operand[] = []
    for (;;) {
      const token = this.#tokens[this.#at]?.trim()
      if (token === undefined || token === '|' || token === ')') break
      operands.push(this.#operand(token, depth))
    }
    if (operands.length === 0) throw new BuiltinError('missing value for command')
    return operands
  }

  #operand(token: string, depth: number): Operand {
    this.#at++
    const fields: string[] = []
    let term: Term
    if (token === '(') {
      term = { kind: 'group', pipeline: this.#pipeline(depth + 1) }
      if (this.#tokens[this.#at++] !== ')') throw new BuiltinError('missing )')
    } else if (token.startsWith('.')) {
      term = { kind: 'dot' }
      if (token.length > 1) fields.push(token.slice(1))
    } else term = readTerm(token)
    // Fields that follow directly, without a space.
    while (/^\../.test(this.#tokens[this.#at] ?? ''))
      fields.push(this.#tokens[this.#at++]!.slice(1))
    return { term, fields }
  }
}

function readTerm(token: string): Term {
  if (token.startsWith('`')) return { kind: 'text', value: token.slice(1, -1) }
  if (token.startsWith('"')) {
    try {
      return { kind: 'text', value: JSON.parse(token) as string }
    } catch {
      throw new BuiltinError(`the text ${token} is malformed`)
    }
  }
  if (token.startsWith('$')) return { kind: 'variable', name: token }
  if (token === 'true' || token === 'false') return { kind: 'literal', value: token === 'true' }
  if (token === 'nil') return { kind: 'literal', value: null }
  if (/^-?[0-9]/.test(token)) {
    const value = Number(token)
    if (!Number.isFinite(value)) throw new BuiltinError(`the number ${token} is malformed`)
    return { kind: 'literal', value }
  }
  if (functions.includes(token)) return { kind: 'function', name: token }
  if (['html', 'js', 'urlquery', 'call', 'slice'].includes(token)) {
    refuseWork(`strings.render_template does not have the function ${token}`)
  }
  throw new BuiltinError(`unexpected ${token}`)
}
