/**
 * JSON that has exactly one reading. What the grammar allows and two readers may take differently is refused: a name that
 * comes twice in an object (RFC 8259 section 4), more depth, members or digits than its reader asked for.
 */

export interface StrictJson {
  /** Objects and lists inside each other. */
  readonly maxDepth: number
  /** Members of one object. */
  readonly maxMembers: number
  /** Characters of a number, and the power of ten it may have: arithmetic on more costs without bound. Undefined: any. */
  readonly maxNumber?: { readonly characters: number; readonly exponent: number } | undefined
  /**
   * Names with an escape in them. `write-out`: written without it, and refused where that cannot be. `keep`: left as they
   * are, and compared as a reader sees them that takes every lone surrogate for U+FFFD.
   */
  readonly escapedNames: 'write-out' | 'keep'
  /** Makes the error to throw. */
  readonly refuse: (why: string) => Error
}

/**
 * @param text JSON that parses: the grammar is the engine's to check, and this relies on it.
 * @returns the text, its names as `escapedNames` says
 * @throws what `refuse` makes
 */
export function strictJson(text: string, rules: StrictJson): string {
  const { maxDepth, maxNumber, refuse } = rules
  const writeOut = rules.escapedNames === 'write-out'
  /** Names so far of the objects around; undefined for a list. */
  const around: (Set<string> | undefined)[] = []
  let isName = false
  let plain = ''
  let copied = 0
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    switch (code) {
      case 0x22: {
        const end = endOfString(text, at)
        const names = isName ? around.at(-1) : undefined
        if (names !== undefined) {
          let name = text.slice(at + 1, end - 1)
          if (name.includes('\\')) {
            name = decodedName(text.slice(at, end), rules)
            if (writeOut) {
              plain += `${text.slice(copied, at)}"${name}"`
              copied = end
            }
          }
          addName(names, name, rules)
        }
        isName = false
        at = end - 1
        break
      }
      case 0x7b:
      case 0x5b:
        if (around.length === maxDepth) throw refuse('it is too deep')
        isName = code === 0x7b
        around.push(isName ? new Set() : undefined)
        break
      case 0x7d:
      case 0x5d:
        around.pop()
        break
      case 0x2c:
        isName = true
        break
      default:
        // A sign or a digit: a number begins.
        if (maxNumber !== undefined && (code === 0x2d || (code >= 0x30 && code <= 0x39))) {
          at = endOfNumber(text, at, rules) - 1
        }
    }
  }
  return copied === 0 ? text : plain + text.slice(copied)
}

function addName(names: Set<string>, name: string, { maxMembers, refuse }: StrictJson): void {
  if (names.has(name)) throw refuse('a name comes twice in one object')
  if (names.size === maxMembers) throw refuse('an object has too many members')
  names.add(name)
}

/** What a JSON string cannot hold without an escape. */
const unwritable = /["\\\0-\x1f]/

function decodedName(quoted: string, { escapedNames, refuse }: StrictJson): string {
  const name = JSON.parse(quoted) as string
  if (escapedNames === 'keep') return name.toWellFormed()
  if (unwritable.test(name)) throw refuse('a name needs an escape')
  return name
}

/** Index behind the closing quote. */
function endOfString(text: string, open: number): number {
  let at = open + 1
  while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at + 1
}

const number = /[-+.0-9eE]+/y

/** Index behind the number. */
function endOfNumber(text: string, from: number, { maxNumber, refuse }: StrictJson): number {
  number.lastIndex = from
  const digits = number.exec(text)![0]
  const exponent = Number(/[eE](.*)$/.exec(digits)?.[1] ?? 0)
  if (digits.length > maxNumber!.characters || Math.abs(exponent) > maxNumber!.exponent)
    throw refuse('a number is too large')
  return from + digits.length
}
