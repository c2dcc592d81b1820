#!/usr/bin/env node
/** `dropgate COMMAND`: src/main.ts, once it is sure that this Node.js can read it. */
import './node-version.cjs'

await import('../src/main.ts')
