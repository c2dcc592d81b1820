/**
 * Returns true if signing keys may be fetched from this URL: over https, or over plain http from this machine.
 */
export function isTrusted(text: string): boolean {
  try {
    const { protocol, hostname } = new URL(text)
    return (
      protocol === 'https:' ||
      (protocol === 'http:' && /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(hostname))
    )
  } catch {
    return false
  }
}
