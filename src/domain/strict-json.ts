/**
 * Checks that JSON has exactly one meaning. Refuses JSON that two readers may understand differently: a name that
 * occurs twice in an object (RFC 8259 section 4), and more depth, members or digits than the caller allows. Where loose
 * readers come after, also names that differ only by case, NUL and lone surrogates.
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
  /**
   * True when a loose reader may get the text too: then two names also count as equal when they differ only by case, as
   * for encoding/json of Go and Jackson's lenient modes, and no text may hold NUL, where readers in C end, or a lone
   * surrogate, which readers replace or drop.
   */
  readonly loose?: boolean
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
  const odd = rules.loose === true && oddEscape.test(text)
  let isName = false
  let plain = ''
  let copied = 0
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    switch (code) {
      case 0x22: {
        const end = endOfString(text, at)
        if (odd) checkText(text.slice(at, end), rules)
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

function addName(names: Set<string>, name: string, rules: StrictJson): void {
  const { maxMembers, refuse } = rules
  const compared = rules.loose === true ? withoutCase(name) : name
  if (names.has(compared)) {
    const how = rules.loose === true ? ', as written or but for its case' : ''
    throw refuse(`a name comes twice in one object${how}`)
  }
  if (names.size === maxMembers) throw refuse('an object has too many members')
  names.add(compared)
}

/**
 * Up and down again: Go compares the Kelvin sign as `k`, the long s as `s` (Unicode simple case folding). Down first, since
 * the capital of `ß` stays itself on the way up.
 */
function withoutCase(name: string): string {
  return name.toLowerCase().toUpperCase().toLowerCase()
}

/** JSON text holds both of them in escapes only: NUL as RFC 8259 has it, surrogates since the bytes were UTF-8. */
const oddEscape = /\\u(?:0000|[dD][89a-fA-F])/

function checkText(quoted: string, { refuse }: StrictJson): void {
  if (!oddEscape.test(quoted)) return
  const text = JSON.parse(quoted) as string
  if (text.includes('\0')) throw refuse('a text holds NUL')
  if (!text.isWellFormed()) throw refuse('a text holds half a character, a lone surrogate')
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
