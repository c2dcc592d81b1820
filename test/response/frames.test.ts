/** Bounds of frames, whatever pieces they come in. */
import t from 'tap'
import { closeFrame, Frames } from '../../src/response/frames.ts'
import { seeded, seedOf } from '../harness/wait.ts'

/** A frame as a client (masked) or a server sends it. */
function frame(opcode: number, length: number, masked: boolean, fin = true): Buffer {
  const head = [(fin ? 0x80 : 0) | opcode]
  const bit = masked ? 0x80 : 0
  if (length < 126) head.push(bit | length)
  else if (length < 65536) head.push(bit | 126, length >> 8, length & 0xff)
  else head.push(bit | 127, 0, 0, 0, 0, (length >>> 24) & 0xff, (length >>> 16) & 0xff, (length >>> 8) & 0xff, length & 0xff)
  if (masked) head.push(1, 2, 3, 4)
  return Buffer.concat([Buffer.from(head), Buffer.alloc(length, 0x88)])
} // biome-ignore format: one head

t.test(
  'a boundary is found at the end of each frame and nowhere else, in random pieces',
  async (t) => {
    const seed = seedOf()
    t.comment(`SEED=${seed}`)
    const random = seeded(seed)
    const lengths = [0, 1, 5, 125, 126, 127, 200, 65535, 65536, 70000]
    for (let run = 0; run < 300; run++) {
      const masked = run % 2 === 0
      const sent = Array.from({ length: 6 }, () => {
        const control = random() < 0.3
        const length = control
          ? Math.floor(random() * 126)
          : lengths[Math.floor(random() * lengths.length)]!
        return frame(control ? 9 : 2, length, masked, control || random() < 0.5)
      })
      const ends = new Set<number>()
      let total = 0
      for (const { length } of sent) {
        total += length
        ends.add(total)
      }
      const bytes = Buffer.concat(sent)
      const frames = new Frames({ masked })
      for (let at = 0; at < bytes.length; ) {
        const size = 1 + Math.floor(random() * (random() < 0.5 ? 5 : 5000))
        const piece = bytes.subarray(at, at + size)
        if (frames.read(piece, false) !== piece.length) t.fail(`refused at ${at} in run ${run}`)
        at += piece.length
        if (frames.atBoundary !== ends.has(at)) t.fail(`wrong at ${at} in run ${run}`)
      }
    }
    t.pass()
  },
)

t.test('reading to the boundary stops there, even inside a piece', async (t) => {
  const bytes = Buffer.concat([frame(2, 300, false), frame(2, 10, false)])
  const frames = new Frames({ masked: false })
  t.equal(frames.read(bytes.subarray(0, 50), false), 50)
  t.equal(frames.read(bytes.subarray(50), true), 304 - 50)
  t.equal(frames.atBoundary, true)
})

t.test('what a side must not send is no frame, and nothing after it is', async (t) => {
  const wrong: [name: string, bytes: Buffer, masked: boolean][] = [
    ['a client without mask', frame(2, 5, false), true],
    ['a server with one', frame(2, 5, true), false],
    ['a reserved opcode', frame(3, 5, true), true],
    ['a reserved control opcode', frame(11, 5, true), true],
    ['a long ping', frame(9, 126, true), true],
    ['a ping in fragments', frame(9, 5, true, false), true],
    ['a length beyond all', Buffer.of(0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4), true],
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n'), true],
  ]
  for (const [name, bytes, masked] of wrong) {
    const frames = new Frames({ masked })
    t.equal(frames.read(bytes, false), -1, name)
    t.equal(frames.atBoundary, false, `${name}: no close frame may follow`)
    t.equal(frames.read(frame(2, 1, masked), false), -1, name)
  }
})

t.test('a close frame is masked where its side must mask, and ends the frames', async (t) => {
  t.same([...closeFrame(1008, 'no')], [0x88, 4, 0x03, 0xf0, 0x6e, 0x6f])
  const masked = closeFrame(1008, 'no', Buffer.of(1, 2, 3, 4))
  t.same([...masked], [0x88, 0x84, 1, 2, 3, 4, 0x02, 0xf2, 0x6d, 0x6b])
  const frames = new Frames({ masked: true })
  frames.read(masked, false)
  t.equal(frames.closed, true)
})
