/** JSON documents of chance: names and strings with escapes and every width of UTF-8, numbers in every form. */
import type { Chance } from './compared.ts'

const letters = [
  'a',
  'b',
  'z',
  '0',
  'é',
  '漢',
  '𝒳',
  '\\n',
  '\\u0000',
  '\\u00e9',
  '\\ud834\\udd1e',
  '\\"',
  '\\/',
  ' ',
]
const numbers = [
  '0',
  '-0',
  '1',
  '-17',
  '3.25',
  '1e3',
  '-2.5E-7',
  '12345678901234567890',
  '0.1',
  '1E+2',
]

export function drawText(chance: Chance): string {
  const long = chance.number(20) === 0 ? 90 : 0
  return Array.from(
    { length: chance.number(6) + long },
    () => letters[chance.number(letters.length)],
  ).join('')
}

/** No name comes twice in one object. @param depth Most objects and lists inside each other. */
export function drawJson(chance: Chance, depth: number): string {
  const kind = chance.number(depth > 0 ? 9 : 6)
  if (kind === 0) return ['null', 'true', 'false'][chance.number(3)]!
  if (kind < 3) return numbers[chance.number(numbers.length)]!
  if (kind < 6) return `"${drawText(chance)}"`
  const length = chance.number(chance.number(8) === 0 ? 40 : 5)
  const items = Array.from({ length }, () => drawJson(chance, depth - 1))
  if (kind === 6) return `[${items.join(',')}]`
  return `{${items.map((item, i) => `"${i === 0 ? '' : `${i}:${drawText(chance)}`}":${item}`).join(', ')}}`
}
