/** `docs/builtins.md`, written from the table of builtins. */
import { comparedWith, differences } from '../../src/policy/differences.ts'
import { replacedNatives } from '../../src/policy/natives.ts'
import { builtins, refused } from '../../src/rego/registry.ts'

/** What the module always answers itself. */
export const native = `
  all and any array.concat array.flatten array.reverse assign base64.encode base64url.encode contains endswith eq equal
  graph.reachable gt gte internal.member_2 internal.member_3 intersection is_array is_boolean is_null is_number is_object is_set
  is_string lt lte max min neq net.cidr_overlap object.filter object.get object.keys object.remove object.union or re_match
  set_diff startswith trim_prefix trim_suffix type_name union walk
`
  .trim()
  .split(/\s+/)

/** Resolved by the compiler: a module never asks for them. */
export const resolved = ['rego.metadata.chain', 'rego.metadata.rule']

export function builtinsDocument(): string {
  const listed = (names: Iterable<string>): string =>
    [...names]
      .sort()
      .map((name) => `\`${name}\``)
      .join(' · ')
  const replaced = (guarded: boolean): string[] => [
    ...new Set(
      replacedNatives
        .filter(({ guards }) => (guards !== undefined) === guarded)
        .map(({ builtin }) => builtin),
    ),
  ]
  const rows = differences.map(
    ({ builtins, when, opa, ours, why }) =>
      `| ${builtins.length === 0 ? 'all, or the language' : listed(builtins)} | ${[when, opa, ours, why].map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`,
  )
  const compiledIn = new Set([...replaced(true), ...replaced(false)])
  return `# Builtins

Written from the code by \`make docs\`. Every builtin function of OPA is one of these:

- **native**: compiled into the module by \`opa build\`;
- **host**: provided by dropgate with OPA’s semantics (\`src/rego/\`);
- **either**: compiled into the module, and answered by the host where the module would answer otherwise than OPA, or
  never end: always, or for rare arguments only (\`src/policy/natives.ts\` says why for each);
- **refused**: a bundle that needs it is refused when it is loaded, and the last good one serves on.

All of them are checked by OPA’s own cases ([conformance.md](conformance.md)) and by generated calls beside \`opa eval\`
of ${comparedWith}: thousands in \`make test\`, 200,000 in \`make soak\`, with empty, huge, negative and fractional arguments,
bytes that are not UTF-8, deep nesting, sets of sets, wrong types. Every difference that they find must be one of those in the
table below.

As in OPA without strict errors, a builtin that fails is undefined. What the world answers (\`time.now_ns\`, \`rand.intn\`,
\`uuid.rfc4122\`) is the same for a whole evaluation. Numbers keep their digits, sets stay sets. Members of sets and keys of
objects are visited in OPA’s order wherever the order shows in a result.

## Not as in OPA

| Builtin | When | OPA | Here | Why |
| --- | --- | --- | --- | --- |
${rows.join('\n')}

## Refused

| Builtin | Instead |
| --- | --- |
${Object.entries(refused)
  .map(([name, why]) => `| \`${name}\` | ${why} |`)
  .join('\n')}

## Host

${listed([...builtins.keys()].filter((name) => !compiledIn.has(name)))}

## Either

Always the host: ${listed(replaced(false))}

The host for rare arguments: ${listed(replaced(true))}

## Native

${listed(native)}

\`rego.metadata.chain\` and \`rego.metadata.rule\` are resolved by the compiler.
`
}
