/**
 * What it costs that evaluations can be interrupted: the same policies and inputs with and without the count of steps,
 * in turns in one process. `node test/bench/steps.ts`; takes about a minute.
 */
import { readArchive } from '../../src/bundle/archive.ts'
import { kind, leb, op } from '../../src/policy/binary.ts'
import { PolicyInstance } from '../../src/policy/host.ts'
import { findPolicyUsage } from '../../src/policy/input-usage.ts'
import { prepareModule, replaceNatives } from '../../src/policy/module.ts'
import { ModuleParts } from '../../src/policy/module-parts.ts'
import { allowStepsExport, heapInitExport, stepsExport } from '../../src/policy/steps.ts'
import { compile } from '../harness/bundle.ts'
import { machine } from './machine.ts'

const decision = 'gate/authz/decision'
const limits = { maxBundleBytes: 1 << 26, maxUnpackedBytes: 1 << 28 }
const rounds = 120
/** CPU time of one block of calls, in µs. */
const blockUs = 500

const roles = Object.fromEntries(
  Array.from({ length: 200 }, (_, i) => [
    `role-${i}`,
    [
      { path: ['orders'], methods: ['GET'] },
      { path: ['things', `${i}`], methods: ['GET', 'POST'] },
    ],
  ]),
)
const xs = Array.from({ length: 200 }, (_, i) => `k${(i * 7919) % 200}`)
const byRole = `decision if {
  some role in input.principal.claims.roles
  some grant in data.roles[role]
  input.method in grant.methods
  array.slice(input.parsed_path, 0, count(grant.path)) == grant.path
}`
const policies: readonly (readonly [name: string, rego: string, data: object, padding: number])[] = [
  ['small policy', 'decision if { input.method == "GET"; input.principal }', {}, 0],
  ['200 roles', byRole, { roles }, 0],
  ['200 roles, input of 4 kB', byRole, { roles }, 4000],
  ['sort of 200 texts', 'decision if count(sort(data.xs)) > 0', { xs }, 0],
  ['sets of 200 texts', 'decision if { s := {x | some x in data.xs}; o := {x: 1 | some x in data.xs}; count(s) == count(o) }', { xs }, 0],
  ['`regex.match`', 'decision if regex.match(`^/(?:orders|things)/[0-9]+(?:/[a-z-]{1,40})?$`, input.path)', {}, 0],
  ['a builtin of the host', 'decision if sprintf("%s", [input.method]) == "GET"', {}, 0],
] // biome-ignore format: a table

/** The module with what the host looks for, but without a count. */
function uncounted(wasm: Uint8Array): { bytes: Uint8Array; initialPages: number } {
  const { bytes, initialPages } = replaceNatives(wasm)
  const parts = new ModuleParts(bytes)
  const heapInit = [...parts.names].find(([, name]) => name === 'opa_malloc_init')![0]
  const i32 = 0x7f
  const written = parts.written({
    types: [[0x60, 1, i32, 0]],
    functions: [leb(parts.params.length)],
    globals: [[i32, 1, op.i32Const, 0, op.end]],
    exports: [
      { name: stepsExport, kind: kind.global, index: parts.globals },
      { name: allowStepsExport, kind: kind.func, index: parts.functions },
      { name: heapInitExport, kind: kind.func, index: heapInit },
    ],
    bodies: [...parts.bodies, Buffer.of(0, op.end)],
  })
  return { bytes: written, initialPages }
}

function cpuUs(calls: number, call: () => void): number {
  const before = process.cpuUsage()
  for (let i = 0; i < calls; i++) call()
  const { user, system } = process.cpuUsage(before)
  return Math.max(1, user + system) / calls
}

/** Mean of the best fifth. */
function best(times: readonly number[]): number {
  const low = [...times].sort((a, b) => a - b).slice(0, times.length / 5)
  return low.reduce((sum, time) => sum + time, 0) / low.length
}

async function compare(rego: string, data: object, padding: number): Promise<[number, number]> {
  const content = await readArchive(
    compile(`default decision := false\n${rego}`, [decision], data),
    limits,
  )
  const input = JSON.stringify({
    ...{ method: 'GET', path: '/orders/7', parsed_path: ['orders', '7'], padding: 'p'.repeat(padding) },
    ...{ principal: { subject: 'alice', claims: { roles: ['role-7', 'role-49'] } } },
  }) // biome-ignore format: short
  const keepHeap = findPolicyUsage(content.wasm).patterns
  const calls = [uncounted, prepareModule].map((prepare) => {
    const { bytes, initialPages } = prepare(content.wasm)
    const module = new WebAssembly.Module(Buffer.from(bytes))
    const options = { module, initialPages, data: content.data, maxMemoryBytes: 256 << 20 }
    const instance = new PolicyInstance({ ...options, keepHeap })
    const entrypoint = instance.entrypoints.get(decision)!
    return () => {
      if (instance.evaluate(entrypoint, input) !== '[{"result":true}]') throw new Error('denied')
    }
  })
  for (let i = 0; i < 5000; i++) for (const call of calls) call()
  await new Promise((resolve) => setTimeout(resolve, 300))
  const each = Math.max(5, Math.round(blockUs / cpuUs(300, calls[0]!)))
  const times: [number[], number[]] = [[], []]
  for (let round = 0; round < rounds; round++) {
    for (const k of round % 2 === 0 ? [0, 1] : [1, 0]) times[k]!.push(cpuUs(each, calls[k]!))
  }
  return [best(times[0]), best(times[1])]
}

const lines = []
for (const [name, rego, data, padding] of policies) {
  const [plain, counted] = await compare(rego, data, padding)
  const more = ((counted / plain - 1) * 100).toFixed(1)
  lines.push(`| ${name} | ${plain.toFixed(2)} | ${counted.toFixed(2)} | ${more} % |`)
}
process.stdout.write(
  `${machine()}\n| CPU µs per evaluation | without | counted | more |\n| --- | ---: | ---: | ---: |\n${lines.join('\n')}\n`,
)
