/** 200,000 generated calls of every builtin beside `opa eval`, as the check does with thousands. Prints its seed. */
process.env.CALLS ??= '200000'
await import('../builtins/builtins.test.ts')
