/** Tens of thousands of generated builtin calls beside `opa eval`, as the check does with hundreds. */
process.env.CALLS ??= '40000'
await import('../rego/against-opa.test.ts')
