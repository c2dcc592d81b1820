/** The known word that a misspelt one most probably means: for "did you mean". */

/** Returns the known word with the fewest edits from `word`, or undefined if even that one is too different. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  let best: string | undefined
  let least = Math.max(2, Math.floor(word.length / 2))
  for (const each of known) {
    const edits = distance(word, each)
    if (edits <= least && (best === undefined || edits < least)) {
      best = each
      least = edits
    }
  }
  return best
}

/** Levenshtein distance: the number of single-character edits between two texts. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(
        row[j]! + 1,
        next[j - 1]! + 1,
        row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1),
      )
    }
    row = next
  }
  return row[b.length]!
}
