/** A command, or a test, that is started by a Node.js that cannot run the sources says so in one sentence. */
import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import t from 'tap'
import { oldNode } from '../harness/old-node.ts'

const { path: older, skip } = oldNode

const sentence =
  /^dropgate needs Node\.js 24\.9 or newer, and .+ is \d+\.\d+\.\d+: in a checkout use .+\n$/

t.test('an older Node.js is told what is needed, before a source is read', { skip }, async (t) => {
  const { status, stdout, stderr } = spawnSync(older!, ['bin/dropgate.js', '--version'], {
    encoding: 'utf8',
  })
  t.match(stderr, sentence)
  t.equal(stderr.split('\n').length, 2, 'one line')
  t.equal(stdout, '')
  t.equal(status, 1)
})

t.test('an older Node.js that runs a test is told the same', { skip }, async (t) => {
  const tap = resolve('node_modules/.bin/tap')
  const args = [tap, 'run', '--reporter=tap', 'test/domain/linked.test.ts']
  // Nothing of the tap around this test: it would take the inner one for a part of itself.
  const own = Object.entries(process.env).filter(
    ([name]) => !/^_?TAP|^NODE_OPTIONS|^TS_NODE/.test(name),
  )
  const { status, stderr } = spawnSync(older!, args, {
    encoding: 'utf8',
    env: Object.fromEntries(own),
  })
  t.match(stderr, sentence)
  t.not(status, 0)
})

t.test('the Node.js of the checkout runs a command', async (t) => {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [resolve('bin/dropgate.js'), '--version'],
    { encoding: 'utf8', cwd: '/' },
  )
  t.match(stdout, /^\d+\.\d+\.\d+\n$/)
  t.equal(stderr, '')
  t.equal(status, 0)
})
