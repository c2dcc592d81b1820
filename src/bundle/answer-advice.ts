/** What to write where a policy answers something that is no decision: a set of reasons, a package, an object of another kind. */

/** A result as an error quotes it. */
export function shortened(resultJson: string): string {
  return resultJson.length <= 200 ? resultJson : `${resultJson.slice(0, 200)}…`
}

const wanted =
  'the gate takes true, false, or an object such as {"allowed": true, "headers": {…}}; docs/policies.md has all its fields'

/** @param decision The entrypoint. @param resultJson What it answered. */
export function adviseAnswer(decision: string, resultJson: string): string {
  const result: unknown = JSON.parse(resultJson)
  const rule = `data.${decision.replaceAll('/', '.')}`
  const name = decision.split('/').at(-1)!
  if (Array.isArray(result)) {
    return `${wanted}. ${name} is a set or list: decide by a rule that counts it, such as \`${counting(rule)}\`, and name that rule as the decision`
  }
  if (typeof result !== 'object' || result === null) return wanted
  const inner = ['decision', 'allowed', 'allow'].find((each) => Object.hasOwn(result, each))
  if (Object.hasOwn(result, 'allowed')) return wanted
  if (inner !== undefined) {
    return `${wanted}. If ${decision} is a package, name its rule as the decision: ${decision}/${inner}; if it is a rule, call the member allowed in place of ${inner}`
  }
  return `${wanted}. Give the object a member allowed`
}

/** A rule over a set of reasons to deny, which asks for a fact, so that it denies a request of which nothing is known. */
export function counting(rule: string, v0 = false): string {
  return `decision ${v0 ? '' : 'if '}{ input.attributes; count(${rule}) == 0 }`
}
