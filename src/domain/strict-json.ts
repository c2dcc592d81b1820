/**
 * Checks that JSON has exactly one meaning. Refuses JSON that two readers may understand differently: a name that
 * occurs twice in an object (RFC 8259 section 4), and more depth, members or digits than the caller allows.
 */

export interface StrictJson {
  /** Most objects and lists inside each other. */
  readonly maxDepth: number
  /** Most members of one object. */
  readonly maxMembers: number
  /**
   * Most characters of a number, and its largest power of ten: arithmetic on larger numbers has no cost limit.
   * Undefined: any.
   */
  readonly maxNumber?: { readonly characters: number; readonly exponent: number } | undefined
  /**
   * Treatment of names with an escape. `write-out`: the name is written without the escape, or refused when that is
   * impossible. `keep`: the name stays as it is; two names count as equal when they are equal after lone surrogates
   * become U+FFFD.
   */
  readonly escapedNames: 'write-out' | 'keep'
  /** Makes the error to throw. */
  readonly refuse: (why: string) => Error
}

/**
 * @param text Valid JSON: the caller has parsed it, and this function relies on that.
 * @returns the text, with names changed as `escapedNames` says
 * @throws the error that `refuse` makes
 */
export function strictJson(text: string, rules: StrictJson): string {
  const { maxDepth, maxNumber, refuse } = rules
  const writeOut = rules.escapedNames === 'write-out'
  /** Names found so far in each enclosing object; undefined for a list. */
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
        // A sign or a digit starts a number.
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

/** Characters that a JSON string cannot hold without an escape. */
const unwritable = /["\\\0-\x1f]/

function decodedName(quoted: string, { escapedNames, refuse }: StrictJson): string {
  const name = JSON.parse(quoted) as string
  if (escapedNames === 'keep') return name.toWellFormed()
  if (unwritable.test(name)) throw refuse('a name needs an escape')
  return name
}

/** Index after the closing quote. */
function endOfString(text: string, open: number): number {
  let at = open + 1
  while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at + 1
}

const number = /[-+.0-9eE]+/y

/** Index after the number. */
function endOfNumber(text: string, from: number, { maxNumber, refuse }: StrictJson): number {
  number.lastIndex = from
  const digits = number.exec(text)![0]
  const exponent = Number(/[eE](.*)$/.exec(digits)?.[1] ?? 0)
  if (digits.length > maxNumber!.characters || Math.abs(exponent) > maxNumber!.exponent)
    throw refuse('a number is too large')
  return from + digits.length
}
