/** Times as commands show them: in UTC, since those who read them are in several places, and how long ago. */

/** `2026-11-29 20:15Z`, for tables. */
export function minute(time: Date): string {
  return `${time.toISOString().slice(0, 16).replace('T', ' ')}Z`
}

/** `2026-11-29 20:15:07Z`. */
export function second(time: Date): string {
  return `${time.toISOString().slice(0, 19).replace('T', ' ')}Z`
}

/** `2026-11-29 20:15:07Z (3 h ago)`. */
export function moment(time: Date, now: Date): string {
  return `${second(time)} (${distance(time, now)})`
}

function distance(time: Date, now: Date): string {
  const ms = now.getTime() - time.getTime()
  return ms < 0 ? `in ${span(-ms)}` : `${span(ms)} ago`
}

/** A length of time in its largest unit: `12 s`, `3 h`, `40 d`, `5 y`. */
export function span(ms: number): string {
  const units: readonly (readonly [string, number])[] = [
    ['y', 365.25 * 86_400_000],
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['min', 60_000],
    ['s', 1000],
  ]
  // The next unit begins at two of it: 90 min says more than 1 h.
  const [unit, length] = units.find(([, each]) => ms >= 2 * each) ?? ['s', 1000]
  return `${Math.floor(ms / length)} ${unit}`
}
