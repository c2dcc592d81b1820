/** The gate's own log: each line has fields for machines and a sentence for people. */
export interface Log {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}
