/**
 * Builds the JSON Schema of a configuration together with the type that its values have in the program, so that the two
 * cannot differ.
 */

declare const valueType: unique symbol
declare const mayBeAbsent: unique symbol

/** A JSON Schema whose values have the type `T` in the program. */
export interface Shape<T> {
  readonly [keyword: string]: unknown
  /** Exists only for the compiler. */
  readonly [valueType]?: T
}

/** A shape of an option that may be absent. */
interface OptionalShape<T> extends Shape<T> {
  readonly [mayBeAbsent]: true
}

type Shapes = Readonly<Record<string, Shape<unknown>>>
type OptionalKey<P extends Shapes> = {
  [K in keyof P]: P[K] extends OptionalShape<unknown> ? K : never
}[keyof P]

/** The type of the values of a shape. */
export type ValueOf<S> = S extends Shape<infer T> ? T : never

type ObjectOf<P extends Shapes> = Flat<
  { [K in Exclude<keyof P, OptionalKey<P>>]: ValueOf<P[K]> } & {
    [K in OptionalKey<P>]?: ValueOf<P[K]>
  }
>
type Flat<T> = { [K in keyof T]: T[K] }

const optionals = new WeakSet<object>()

export function shape<T>(schema: Readonly<Record<string, unknown>>): Shape<T> {
  return schema
}

/** The same shape for an option that has no default and may be absent. */
export function optional<T>(given: Shape<T>): OptionalShape<T> {
  const copy = { ...given } as OptionalShape<T>
  optionals.add(copy)
  return copy
}

export function listOf<T>(
  items: Shape<T>,
  keywords: Readonly<Record<string, unknown>>,
): Shape<T[]> {
  return { type: 'array', items, ...keywords }
}

/** A mapping with these keys and no others. */
export function objectOf<P extends Shapes>(properties: P, expected: string): Shape<ObjectOf<P>> {
  const required = Object.keys(properties).filter((key) => !optionals.has(properties[key]!))
  return {
    type: 'object',
    ...(required.length === 0 ? {} : { required }),
    properties,
    additionalProperties: false,
    'x-expected': expected,
  }
}
