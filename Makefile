# Everything runs with the Node that npm installs here, whatever the machine's own is.
BIN := node_modules/.bin
NODE := $(BIN)/node
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Sources run as they are; kept compiled, a thread starts for a quarter of the CPU.
export NODE_COMPILE_CACHE := $(CURDIR)/.tools/compile-cache

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

start: node_modules/.installed ## the whole thing on this machine: PostgreSQL, issuer, upstream, one gate
	@DROPGATE_COMMAND='npm run -s dropgate --' exec $(NODE) src/main.ts demo

test: node_modules/.installed ## every test but the long ones, or `make test TESTS="FILE …"`; the last line counts them
	@$(NODE) test/harness/run.ts $(TESTS)

test-fast: node_modules/.installed ## the tests that need no database, no gate and no opa; under a minute
	@$(NODE) test/harness/run.ts --fast

check: node_modules/.installed ## what CI runs: lint, types, then `make test`
	@$(BIN)/biome ci --colors=off .
	@$(BIN)/tsc --noEmit
	@$(MAKE) --no-print-directory test

bundle: node_modules/.installed ## check, test and build policies/ into bundles/gate.tar.gz; formats nothing (dropgate build --fix does)
	@$(NODE) src/main.ts build

docs: node_modules/.installed ## write dropgate.schema.json and the tables of README.md anew
	@$(NODE) test/harness/docs.ts --write

bench: node_modules/.installed ## CPU per request beside its peers, latency, many tokens, revocation time, many rows, many streams
	@$(NODE) test/bench/bench.ts
	@$(NODE) test/bench/rotating.ts
	@$(NODE) test/bench/new-token.ts
	@$(NODE) test/bench/latency.ts
	@$(NODE) test/bench/chunks.ts
	@$(NODE) test/bench/feed.ts
	@$(NODE) test/bench/live.ts

soak: node_modules/.installed ## the long runs; each prints its seed and its figures
	@for file in test/soak/*.soak.ts; do $(NODE) $$file || exit 1; done

conformance: node_modules/.installed ## all of OPA's own cases on our engine; writes docs/conformance.md
	@$(NODE) test/conformance/conformance.ts

release: node_modules/.installed ## pack dropgate into build/ and try it where there is only Node.js (needs bwrap)
	@$(NODE) release/release.ts
	@$(NODE) release/deploy.ts

clean: ## remove what was installed and what the demo stored
	rm -rf node_modules .tools .dropgate .tap build

node_modules/.installed: package.json package-lock.json
	@echo 'installing the packages: npm ci, which takes longest ...'; began=$$(date +%s); \
	npm ci --no-audit --no-fund --loglevel=error && echo "installed after $$(($$(date +%s) - began)) s"
	@touch $@

.PHONY: help start test test-fast check bundle docs bench soak conformance release clean
.DEFAULT_GOAL := help
