/**
 * What a value of a rule may be: members of the rule's parameters (`Member`), objects that the rule makes itself (`Made`),
 * or anything else. A value is never forgotten: when in doubt it is read.
 */
import type { Work } from './rule-outline.ts'

/** What is known of a value beside its members: nothing, that it is null, a boolean, a number or a string; or nothing at all. */
export const beside = { nothing: 0, scalar: 1, anything: 2 } as const
type Beside = (typeof beside)[keyof typeof beside]

/** Deeper members are not told apart: to step into one reads the whole member above it. */
const maxDepth = 12
/** Work that a new member counts as, so that the limit of the work bounds the memory too. */
const newMember = 20
/** What may be one of more members than these is read. */
const maxCells = 100

export class Held {
  readonly cells: (Member | Made)[]
  beside: Beside

  constructor(cells: (Member | Made)[] = [], also: Beside = beside.nothing) {
    this.cells = cells
    this.beside = also
  }

  get isNothing(): boolean {
    return this.cells.length === 0 && this.beside === beside.nothing
  }

  /** @returns whether anything of it is new */
  add(more: Held, work: Work): boolean {
    if (more === this) return false
    let changed = false
    if (more.beside > this.beside) {
      this.beside = more.beside
      changed = true
    }
    for (const cell of more.cells) changed = this.addCell(cell, work) || changed
    return changed
  }

  addCell(cell: Member | Made, work: Work): boolean {
    work.spend(1 + (this.cells.length >> 2))
    if (this.cells.includes(cell)) return false
    if (this.cells.length >= maxCells) {
      cell.read(work)
      this.beside = beside.anything
      return false
    }
    this.cells.push(cell)
    return true
  }

  /** Notes that all of the value may be read. */
  read(work: Work): void {
    for (const cell of this.cells) cell.read(work)
  }

  /** What is found in it under `key`; undefined: under a key that is computed. */
  get(key: string | undefined, work: Work): Held {
    const [only] = this.cells
    if (this.cells.length === 1 && only instanceof Member && this.beside !== beside.anything)
      return only.get(key, work)
    const found = new Held([], this.beside === beside.anything ? beside.anything : beside.nothing)
    this.#getInto(found, key, work, new Set())
    return found
  }

  #getInto(found: Held, key: string | undefined, work: Work, seen: Set<Made>): void {
    if (this.beside === beside.anything) found.beside = beside.anything
    for (const cell of this.cells) {
      work.spend(1)
      if (cell instanceof Member) found.add(cell.get(key, work), work)
      else if (!seen.has(cell)) {
        seen.add(cell)
        found.add(cell.rest, work)
        if (key === undefined) for (const each of cell.members.values()) found.add(each, work)
        else found.add(cell.members.get(key) ?? none, work)
        cell.base.#getInto(found, key, work, seen)
      }
    }
  }

  /** To walk over a value shows which members it has. Of an object that the rule has made, it shows what was put in. */
  iterate(work: Work, seen = new Set<Made>()): void {
    for (const cell of this.cells) {
      work.spend(1)
      if (cell instanceof Member) cell.read(work)
      else if (!seen.has(cell)) {
        seen.add(cell)
        cell.base.iterate(work, seen)
      }
    }
  }
}

const none = new Held()

/** A parameter of a rule, or a member at some path below it: what is read of it. */
export class Member {
  whole = false
  /** What is read of a member whose name is computed. */
  any: Member | undefined
  readonly members = new Map<string, Member>()
  readonly param: number
  readonly above: Member | undefined
  /** Undefined for a computed name, and for a parameter. */
  readonly name: string | undefined
  readonly depth: number
  /** True when it stands for one value only. */
  readonly exact: boolean
  readonly held: Held

  constructor(param: number, above?: Member, name?: string) {
    this.param = param
    this.above = above
    this.name = name
    this.depth = above === undefined ? 0 : above.depth + 1
    this.exact = above === undefined || (above.exact && name !== undefined)
    this.held = new Held([this])
  }

  read(_work?: Work): void {
    this.whole = true
  }

  get(name: string | undefined, work: Work): Held {
    work.spend(1)
    if (this.depth >= maxDepth) {
      this.whole = true
      return new Held([], beside.anything)
    }
    if (name === undefined) {
      if (this.any === undefined) work.spend(newMember)
      this.any ??= new Member(this.param, this)
      return this.any.held
    }
    let found = this.members.get(name)
    if (found === undefined) {
      work.spend(newMember)
      found = new Member(this.param, this, name)
      this.members.set(name, found)
    }
    return found.held
  }

  /** The names from the parameter down to here. */
  get path(): (string | undefined)[] {
    const path: (string | undefined)[] = []
    for (let at: Member = this; at.above !== undefined; at = at.above) path.push(at.name)
    return path.reverse()
  }

  /** Adds what is read of another. */
  merge(other: Member, work: Work): void {
    work.spend(1)
    this.whole ||= other.whole
    // Of a value that is read as a whole the members need not be told apart.
    if (this.whole) return
    if (other.any !== undefined) this.#merge(undefined, other.any, work)
    for (const [name, member] of other.members) this.#merge(name, member, work)
  }

  #merge(name: string | undefined, member: Member, work: Work): void {
    const [own] = this.get(name, work).cells
    if (own instanceof Member) own.merge(member, work)
  }
}

/** An object, array or set that a rule makes. */
export class Made {
  readonly members = new Map<string, Held>()
  /** What is inside under other keys. */
  readonly rest = new Held()
  /** What it is a copy of. */
  readonly base = new Held()
  #isRead = false

  get isRead(): boolean {
    return this.#isRead
  }

  put(key: string | undefined, value: Held, work: Work): boolean {
    if (this.#isRead) value.read(work)
    if (key === undefined) return this.rest.add(value, work)
    let held = this.members.get(key)
    if (held === undefined) {
      held = new Held()
      this.members.set(key, held)
    }
    return held.add(value, work)
  }

  copyFrom(value: Held, work: Work): boolean {
    if (this.#isRead) value.read(work)
    return this.base.add(value, work)
  }

  read(work: Work): void {
    if (this.#isRead) return
    this.#isRead = true
    const waiting: Made[] = [this]
    for (let made = waiting.pop(); made !== undefined; made = waiting.pop()) {
      for (const held of [...made.members.values(), made.rest, made.base]) {
        for (const cell of held.cells) {
          work.spend(1)
          if (cell instanceof Member) cell.read()
          else if (!cell.#isRead) {
            cell.#isRead = true
            waiting.push(cell)
          }
        }
      }
    }
  }
}
