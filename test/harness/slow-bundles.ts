/** Bundles that are made to be slow: to unpack, to compile, to analyse, to try. Each is small as a file. */
import { leb, Reader, section, sectionsOf } from '../../src/policy/binary.ts'
import { ModuleParts } from '../../src/policy/module-parts.ts'
import { compile, endless, packed, unpacked } from './bundle.ts'

const lists = process.env.SLOW === 'all' ? 2 << 20 : 1 << 19

/** What each one is, and how it is made. */
export async function slowBundles(): Promise<[what: string, make: () => Promise<Buffer>][]> {
  const good = await unpacked(
    compile('default decision := false\ndecision if input.route.name == "public"'),
  )
  const packedWith = async (more: Record<string, string | Buffer>): Promise<Buffer> =>
    await packed(
      [...new Map([...good, ...Object.entries(more)])].map(([name, bytes]) => [`/${name}`, bytes]),
    )
  const withCode = async (make: (first: number) => readonly Buffer[]): Promise<Buffer> =>
    await packedWith({ 'policy.wasm': withFunctions(good.get('policy.wasm')!, make) })
  const nothing = Buffer.of(0, 0x0b)
  return [
    ['a trial without end', async () => compile('default decision := false\ndecision if contains(data.text, data.part)', undefined, endless)],
    ['many functions', async () => withCode(() => new Array<Buffer>(200_000).fill(nothing))],
    ['rules that call each other', async () => withCode((first) => callingEachOther(first, 3000))],
    ['deep blocks', async () => withCode(() => [deep(300_000)])],
    ['a wide function', async () => withCode(() => [wide(49_000, 100_000)])],
    ['branches that meet again and again', async () => withCode(() => [meetings(2000, 100)])],
    ['a large file of zeros', async () => packedWith({ 'optimized/zeros': Buffer.alloc(120 << 20) })],
    ['large data', async () => packedWith({ 'data.json': `{"a":[${'[1],'.repeat(lists)}1]}` })],
  ] // biome-ignore format: a table
}

function bodyOf(locals: number, code: Buffer): Buffer {
  const declared = locals === 0 ? [0] : [1, ...leb(locals), 0x7f]
  return Buffer.concat([Buffer.from(declared), code, Buffer.of(0x0b)])
}

function deep(depth: number): Buffer {
  const begun = Buffer.from('\x02\x40'.repeat(depth), 'latin1')
  return bodyOf(0, Buffer.concat([begun, Buffer.alloc(depth, 0x0b)]))
}

/** Sets every local, and branches after each. */
function wide(locals: number, branches: number): Buffer {
  const code: number[] = [0x02, 0x40]
  for (let i = 0; i < branches; i++)
    code.push(0x20, ...leb(i % locals), 0x21, ...leb((i * 7) % locals), 0x41, 0, 0x0d, 0)
  return bodyOf(locals, Buffer.from([...code, 0x0b]))
}

/** Nested blocks, each of which sets many locals. */
function meetings(depth: number, sets: number): Buffer {
  const code: number[] = []
  for (let i = 0; i < depth; i++) {
    code.push(0x02, 0x40)
    for (let k = 0; k < sets; k++)
      code.push(0x20, k, 0x21, (k + i) % sets, 0x41, 0, 0x0d, ...leb(i))
  }
  return bodyOf(sets, Buffer.from([...code, ...new Array<number>(depth).fill(0x0b)]))
}

function callingEachOther(first: number, count: number): Buffer[] {
  return Array.from({ length: count }, (_, i) => {
    const code: number[] = []
    for (let k = 1; k <= 40; k++) code.push(0x10, ...leb(first + ((i + k * k) % count)))
    return bodyOf(0, Buffer.from(code))
  })
}

/** A module with more functions of the type `() -> ()`, named as rules are. */
function withFunctions(wasm: Buffer, make: (first: number) => readonly Buffer[]): Buffer {
  const module = new ModuleParts(wasm)
  const code = make(module.functions)
  const type = leb(module.params.length)
  const written = module.written({
    types: [[0x60, 0, 0]],
    functions: code.map(() => type),
    globals: [],
    exports: [],
    bodies: [...module.bodies, ...code],
  })
  const named = code.map((_, i) =>
    Buffer.concat([Buffer.from(leb(module.functions + i)), text('g0.f')]),
  )
  const parts = [written.subarray(0, 8)]
  for (const { id, start, at, end } of sectionsOf(written)) {
    if (id !== section.custom) parts.push(written.subarray(start, end))
    else parts.push(sectionOf(id, withNames(Buffer.from(written.subarray(at, end)), named)))
  }
  return Buffer.concat(parts)
}

/** A vector with entries added at its end. */
function more(vector: Buffer, entries: readonly Buffer[]): Buffer {
  const reader = new Reader(vector, 0, vector.length)
  const count = reader.leb()
  return Buffer.concat([Buffer.from(leb(count + entries.length)), reader.rest(), ...entries])
}

function withNames(custom: Buffer, named: readonly Buffer[]): Buffer {
  const reader = new Reader(custom, 0, custom.length)
  if (reader.name() !== 'name') return custom
  const parts = [text('name')]
  while (!reader.done) {
    const id = reader.byte()
    const body = Buffer.from(reader.slice(reader.leb()).rest())
    parts.push(sectionOf(id, id === 1 ? more(body, named) : body))
  }
  return Buffer.concat(parts)
}

function sectionOf(id: number, body: Buffer): Buffer {
  return Buffer.concat([Buffer.of(id), Buffer.from(leb(body.length)), body])
}

function text(value: string): Buffer {
  return Buffer.concat([Buffer.from(leb(value.length)), Buffer.from(value)])
}
