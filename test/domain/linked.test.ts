import fc from 'fast-check'
import t from 'tap'
import { type Linked, LinkedList } from '../../src/domain/linked.ts'

class Item implements Linked<Item> {
  before: Item | undefined
  after: Item | undefined
  linked = false
}

t.test('a linked list behaves as a Set, and an item that has left points nowhere', async (t) => {
  const step = fc.record({ add: fc.boolean(), item: fc.nat(9) })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const items = Array.from({ length: 10 }, () => new Item())
      const [list, set] = [new LinkedList<Item>(), new Set<Item>()]
      for (const { add, item: n } of steps) {
        const item = items[n]!
        if (!add) {
          if (list.delete(item) !== set.delete(item)) return false
        } else if (!set.has(item)) {
          list.add(item)
          set.add(item)
        }
        const [held, wanted] = [[...list], [...set]]
        if (list.size !== set.size || held.some((each, i) => each !== wanted[i])) return false
        const gone = items.filter((each) => !set.has(each))
        if (gone.some((each) => each.before ?? each.after ?? (each.linked || undefined)))
          return false
      }
      // An item that is being visited may leave.
      for (const each of list) list.delete(each)
      return list.size === 0
    }),
  )
  t.pass()
})
