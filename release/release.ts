/**
 * `make release`: packs dropgate into `build/`, with its checksum and a list of all packages below it, and tries the packed
 * file where there is nothing but Node.js.
 */
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { smoke } from './smoke.ts'
import { type Packed, pack, run } from './stage.ts'

const out = join(import.meta.dirname, '../build')
const say = (text: string): void => void process.stdout.write(`${text}\n`)
const kB = (bytes: number): string => `${Math.round(bytes / 1000)} kB`

const packed = pack(out)
const sbom = writeSbom(packed)
writeChecksums([packed.file, sbom])
say(
  `${packed.file}: ${packed.files} files, ${kB(packed.packedBytes)}, unpacked ${kB(packed.unpackedBytes)}`,
)
smoke(packed.file, say)

/** CycloneDX, of what the shrinkwrap pins. The same checkout gives the same bytes. */
function writeSbom({ name, version, stage }: Packed): string {
  const args = ['sbom', '--sbom-format=cyclonedx', '--sbom-type=application']
  const { serialNumber: _, ...bom } = JSON.parse(
    run('npm', [...args, '--package-lock-only', '--omit=dev'], stage),
  )
  delete bom.metadata.timestamp
  const file = join(out, `${name}-${version}.cdx.json`)
  writeFileSync(file, `${JSON.stringify(bom, null, 2)}\n`)
  say(`${file}: ${bom.components.length} packages`)
  return file
}

/** For `sha256sum --check SHA256SUMS`. */
function writeChecksums(files: readonly string[]): void {
  const lines = files.map((file) => {
    const digest = createHash('sha256').update(readFileSync(file)).digest('hex')
    return `${digest}  ${basename(file)}\n`
  })
  writeFileSync(join(out, 'SHA256SUMS'), lines.join(''))
}
