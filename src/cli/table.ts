/** Rows -> an aligned table that fits a width. No cell holds a control character; wide characters count as two. */

export type Row = Readonly<Record<string, unknown>>

export interface TableOptions {
  /** Width in columns; undefined for no limit, as in a pipe. */
  readonly width?: number | undefined
  /** Columns that are left out where the width is too small, the least important first. */
  readonly spare?: readonly string[]
  /** Columns whose cells are never shortened, such as an id that is pasted into another command. */
  readonly whole?: readonly string[]
}

/** What a shortened cell keeps, while there are columns that can be left out instead, and when there are none. */
const goodCell = 24
const leastCell = 8
const gap = 2

export function formatTable(
  rows: readonly Row[],
  { width, spare = [], whole = [] }: TableOptions = {},
): string {
  const [first] = rows
  if (first === undefined) return '(no rows)'
  const all = Object.keys(first).map((name) => new Column(name, rows, !whole.includes(name)))
  const left = width === undefined ? [] : fit(all, width, spare)
  const columns = all.filter((column) => !left.includes(column.name))
  const line = (cellOf: (column: Column) => string): string =>
    columns
      .map((column) => padded(cellOf(column), column.width))
      .join(' '.repeat(gap))
      .trimEnd()
  return [
    line(({ name, width }) => shorten(name, width)),
    line(({ width }) => '-'.repeat(width)),
    ...rows.map((_, i) => line(({ cells, width }) => shorten(cells[i]!, width))),
    ...(left.length === 0 ? [] : [`(too narrow for: ${left.join(', ')})`]),
  ].join('\n')
}

class Column {
  readonly name: string
  readonly cells: readonly string[]
  /** Width that every cell needs. */
  readonly needed: number
  width: number
  /** Cells may be shortened: a part of a text still says something, a part of a number or a time does not. */
  readonly shortens: boolean

  constructor(name: string, rows: readonly Row[], mayShorten: boolean) {
    this.name = name
    this.cells = rows.map((row) => cellText(row[name]))
    this.needed = this.cells.reduce(
      (most, cell) => Math.max(most, displayWidth(cell)),
      displayWidth(name),
    )
    this.width = this.needed
    this.shortens = mayShorten && this.cells.some((cell) => !/^[\d.:TZ -]*$/.test(cell))
  }
}

/** Narrows the widest cells, then leaves spare columns out, until the columns fit. @returns the names of those left out */
function fit(columns: readonly Column[], width: number, spare: readonly string[]): string[] {
  const left: string[] = []
  const waiting = spare.filter((name) => columns.some((column) => column.name === name))
  for (;;) {
    const shown = columns.filter(({ name }) => !left.includes(name))
    for (const column of shown) column.width = column.needed
    const next = waiting.shift()
    if (narrow(shown, width, next === undefined ? leastCell : goodCell) || next === undefined)
      return left
    left.push(next)
  }
}

/** @param least Width below which no cell is shortened. @returns whether the columns fit now */
function narrow(columns: readonly Column[], width: number, least: number): boolean {
  const narrowable = columns.filter(({ shortens }) => shortens)
  let over = columns.reduce((sum, each) => sum + each.width, gap * (columns.length - 1)) - width
  for (; over > 0; over--) {
    const widest = narrowable.reduce<Column | undefined>(
      (most, each) => (each.width > (most?.width ?? least) ? each : most),
      undefined,
    )
    if (widest === undefined) return false
    widest.width--
  }
  return true
}

function cellText(value: unknown): string {
  if (value === null || value === undefined) return ''
  if (value instanceof Date) return value.toISOString()
  if (Buffer.isBuffer(value)) return `\\x${value.toString('hex')}`
  return plain(typeof value === 'object' ? JSON.stringify(value) : String(value))
}

/**
 * Control characters, line ends, and what has no width: it turns the direction of writing, or makes two names look the
 * same. Joiners and variants stay, which scripts and emoji need.
 */
const hidden =
  /(?!\u200c|\u200d|[\ufe00-\ufe0f])[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu

/** The text without what a terminal would obey or hide. */
export function plain(text: string): string {
  return isPlain(text) ? text : text.replace(hidden, '?')
}

/** The same for JSON, with the escapes that JSON has for them: programs read what they read before. */
export function plainJson(json: string): string {
  return json.replace(hidden, (character) =>
    Array.from(
      { length: character.length },
      (_, i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, '0')}`,
    ).join(''),
  )
}

function padded(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - displayWidth(text)))
}

function shorten(text: string, width: number): string {
  if (displayWidth(text) <= width) return text
  if (isPlain(text)) return `${text.slice(0, width - 1)}…`
  let kept = ''
  let used = 1
  for (const segment of graphemes(text)) {
    const wide = displayWidth(segment)
    if (used + wide > width) break
    kept += segment
    used += wide
  }
  return `${kept}…`
}

let segmenter: Intl.Segmenter | undefined

/** What a reader sees as one character. Made at first use: to load the tables of Unicode takes tens of milliseconds. */
function* graphemes(text: string): Generator<string> {
  segmenter ??= new Intl.Segmenter(undefined, { granularity: 'grapheme' })
  for (const { segment } of segmenter.segment(text)) yield segment
}

const isPlain = (text: string): boolean => /^[\x20-\x7e]*$/.test(text)

/** What terminals draw over two columns: East Asian wide and full-width characters, and emoji. */
const wideCharacter =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Emoji_Presentation}\u3000-\u303e\uff01-\uff60\uffe0-\uffe6]/u

/** Number of terminal columns. */
export function displayWidth(text: string): number {
  if (isPlain(text)) return text.length
  let width = 0
  for (const segment of graphemes(text)) {
    if (wideCharacter.test(segment)) width += 2
    else if (!/^\p{M}/u.test(segment)) width += 1
  }
  return width
}
