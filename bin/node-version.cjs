/**
 * Which Node.js may run dropgate: package.json says it. An older one fails at some import with an error that names a file
 * extension, ts-node or a function that is missing, and not the cause; so this is asked before anything is imported, by
 * bin/dropgate.js and, through `tap` in package.json, by the tests: tap loads ts-node only into a Node.js that is too old,
 * and ts-node begins by loading its compiler, which is named to be this file.
 *
 * Plain JavaScript that old releases can read.
 */
const { existsSync } = require('node:fs')
const { join } = require('node:path')
const { engines } = require('../package.json')

const oldest = engines.node.replace('>=', '')
const [major, minor] = oldest.split('.').map(Number)
const own = process.versions.node.split('.').map(Number)
if (own[0] < major || (own[0] === major && own[1] < minor)) {
  const inCheckout = existsSync(join(__dirname, '../src'))
  process.stderr.write(
    `dropgate needs Node.js ${oldest} or newer, and ${process.execPath} is ${process.versions.node}` +
      (inCheckout
        ? ': in a checkout use `make`, `npm run -s dropgate -- COMMAND` or `npx tap run FILE`, which run the Node.js that `npm ci` installs.\n'
        : ': install a newer one, and run the same command with it.\n'),
  )
  process.exit(1)
}
