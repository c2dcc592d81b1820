/**
 * A list in order of arrival for objects that come and go by the thousand per second. A Set keeps garbage alive here:
 * each hash table that it outgrows points to the next one, so once one of them is in the old generation, all entries
 * of later tables are kept too (measured: 8 kB per request, a tenth of the CPU time). An object that leaves this list
 * points to nothing.
 */
export interface Linked<E> {
  before: E | undefined
  after: E | undefined
  /** True while the object is in a list. An object can be in only one list. */
  linked: boolean
}

export class LinkedList<E extends Linked<E>> implements Iterable<E> {
  #first: E | undefined
  #last: E | undefined
  #size = 0

  get size(): number {
    return this.#size
  }

  /** The object that was added last. */
  get last(): E | undefined {
    return this.#last
  }

  add(item: E): void {
    const last = this.#last
    item.before = last
    item.linked = true
    if (last === undefined) this.#first = item
    else last.after = item
    this.#last = item
    this.#size++
  }

  /** @returns True if the object was in the list. */
  delete(item: E): boolean {
    if (!item.linked) return false
    const { before, after } = item
    if (before === undefined) this.#first = after
    else before.after = after
    if (after === undefined) this.#last = before
    else after.before = before
    item.before = undefined
    item.after = undefined
    item.linked = false
    this.#size--
    return true
  }

  /** Iterates from the oldest. During the loop only the object that was returned last may be removed. */
  *[Symbol.iterator](): Generator<E> {
    for (let item = this.#first; item !== undefined; ) {
      const next: E | undefined = item.after
      yield item
      item = next
    }
  }
}
