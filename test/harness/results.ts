/** Reads what a test file prints (TAP 14) and keeps what a person wants to see of it. */

export class FileResults {
  #passed = 0
  #failed = 0
  #shown = ''
  /** The last result failed: its diagnostics are shown. */
  #failing = false

  read(line: string): void {
    const skipped = /^ok \d+ - (.*?) # SKIP (.*?)(?: \{)?$/.exec(line)
    if (skipped !== null) {
      // Neither passed nor failed, and said so.
      this.#shown += `  - ${skipped[1]}: not tried, ${skipped[2]}\n`
      return
    }
    const result = /^( *)(not )?ok \d+(?: - (.*?))?(?: [#{].*)?$/.exec(line)
    if (result === null) {
      if (this.#failing || line.startsWith('Bail out!')) this.#shown += `${line}\n`
      if (/^ *(?:\.\.\.|\}|\d+\.\.\d+)$/.test(line)) this.#failing = false
      return
    }
    const [, indent, not, name = ''] = result
    this.#failing = not !== undefined
    if (indent !== '') {
      if (this.#failing) this.#shown += `${line}\n`
      return
    }
    if (this.#failing) this.#failed++
    else this.#passed++
    this.#shown += `  ${this.#failing ? '✗' : '✓'} ${name}\n`
  }

  /**
   * @param exit Exit code of the file's process, or the signal that ended it.
   * @returns what to show, with the name of the file at the end, and the counts
   */
  end(
    file: string,
    exit: number | string,
    ms: number,
  ): { readonly text: string; readonly passed: number; readonly failed: number } {
    const tests = this.#passed + this.#failed
    const brokeOff = tests === 0 || (exit !== 0 && this.#failed === 0)
    const failed = this.#failed + (brokeOff ? 1 : 0)
    const mark = failed > 0 ? '✗' : '✓'
    const how = brokeOff ? `, broke off: ${tests === 0 ? 'no tests' : `exit ${exit}`}` : ''
    const text = `${this.#shown}${mark} ${file} (${Math.round(ms / 1000)} s${how})\n`
    return { text, passed: this.#passed, failed }
  }
}
