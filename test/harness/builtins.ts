/** `docs/builtins.md`, written from the table of builtins. */
import { builtins, refused } from '../../src/rego/registry.ts'

/** What OPA compiles into every module, as its `builtin_metadata.json` says, but for what the host answers in its place. */
export const native = `
  abs all and any array.concat array.flatten array.reverse array.slice assign base64.encode
  base64url.encode bits.and bits.lsh bits.negate bits.or bits.rsh bits.xor ceil
  concat contains count div endswith eq equal floor format_int glob.match graph.reachable gt gte
  internal.member_2 internal.member_3 internal.template_string intersection is_array is_boolean is_null is_number
  is_object is_set is_string json.filter json.marshal json.remove lower lt lte max
  min minus mul neq net.cidr_overlap numbers.range object.filter object.get
  object.keys object.remove object.union object.union_n or plus product re_match regex.find_all_string_submatch_n
  regex.is_valid regex.match rem round set_diff sort split startswith strings.replace_n strings.reverse
  substring sum to_number trim trim_left trim_prefix trim_right trim_space trim_suffix type_name union upper walk
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
  return `# Builtins

Written from the code by \`make docs\`. Every builtin function of OPA is one of three:

- **native**: compiled into the module by \`opa build\`;
- **host**: provided by dropgate with OPA’s semantics (\`src/rego/\`, checked by OPA’s own cases, see
  [conformance.md](conformance.md)), also in place of compiled ones that answer otherwise than OPA
  (\`replace\`, \`indexof\`, \`net.cidr_contains\`, \`net.cidr_intersects\`, \`base64.decode\`, \`base64.is_valid\`, \`base64url.decode\`,
  \`json.is_valid\`, \`json.unmarshal\`);
- **refused**: a bundle that needs it is refused when it is loaded, and the last good one serves on.

As in OPA without strict errors, a builtin that fails is undefined. One that is asked for work without reasonable
bound (a million addresses, a pattern of megabytes) ends the evaluation, which denies: an undefined that a
policy negates must not be had by asking for too much. What the world answers (\`time.now_ns\`, \`rand.intn\`,
\`uuid.rfc4122\`) is the same for a whole evaluation. Numbers keep their digits, sets stay sets. \`time.*\` reads the
zone \`Local\` as UTC. \`yaml.marshal\` may quote other texts than OPA does; both read the same.

## Refused

| Builtin | Instead |
| --- | --- |
${Object.entries(refused)
  .map(([name, why]) => `| \`${name}\` | ${why} |`)
  .join('\n')}

## Host

${listed(builtins.keys())}

## Native

${listed(native)}

\`rego.metadata.chain\` and \`rego.metadata.rule\` are resolved by the compiler.
`
}
