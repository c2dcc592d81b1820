/** Every policy as it is published, built as its user would; `make test` builds every second one. */
process.env.BUILDS = 'all'
await import('../cli/build.test.ts')
