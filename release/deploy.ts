/**
 * `make release`, after the package: what `deploy/` holds is tried with the packed file, as far as a machine without a Docker
 * daemon, a cluster and a running systemd can. What cannot be tried here is said, with its reason.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { tryChart } from './deploy/chart.ts'
import { tryCompose } from './deploy/compose.ts'
import { tryImage } from './deploy/image.ts'
import { tryUnit } from './deploy/unit.ts'

const build = join(import.meta.dirname, '../build')
const packed = readdirSync(build).find((name) => /^dropgate-.*\.tgz$/.test(name))
if (packed === undefined) throw new Error('build/ has no packed file: run release/release.ts first')
const say = (text: string): void => void process.stdout.write(`${text}\n`)

tryImage(join(build, packed), say)
tryUnit(join(build, packed), say)
tryCompose(say)
tryChart(say)
