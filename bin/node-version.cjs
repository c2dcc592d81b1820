/**
 * Which Node.js may run dropgate: one that runs the `.ts` sources as they are. An older one fails at the first of them with
 * an error that names a file extension, or ts-node, and not the cause; so this is asked before any of them is loaded, by
 * bin/dropgate.js and, through `tap` in package.json, by the tests: tap loads ts-node only into a Node.js that is too old,
 * and ts-node begins by loading its compiler, which is named to be this file.
 *
 * Plain JavaScript that old releases can read.
 */
const oldest = 24

const { node } = process.versions
if (Number(node.split('.')[0]) < oldest) {
  process.stderr.write(
    `dropgate needs Node.js ${oldest} or newer, and ${process.execPath} is ${node}: in a checkout use \`make\`, ` +
      '`npm run -s dropgate -- COMMAND` or `npx tap run FILE`, which run the Node.js that `npm ci` installs.\n',
  )
  process.exit(1)
}
