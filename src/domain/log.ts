/** The gate's own log, by what its rooms need of it: fields for machines, a sentence for people. */
export interface Log {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}
