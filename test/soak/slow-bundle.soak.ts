/** Every bundle that is made to be slow, beside requests and ticks; `make test` tries some. */
process.env.SLOW = 'all'
await import('../walks/slow-bundle.test.ts')
