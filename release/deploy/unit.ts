/**
 * Runs the packed file as deploy/systemd/dropgate.service says, without systemd: its filter of system calls, no capabilities,
 * a read-only system, /proc with processes only, credentials and folders by the variables that systemd sets. run-unit.ts.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from '../stage.ts'
import { apart, missing } from './tools.ts'

export function tryUnit(packed: string, say: (text: string) => void): void {
  const programs = ['bwrap', 'unshare', 'systemd-analyze', 'systemd-notify', 'logrotate', 'npm']
  const absent = missing('the systemd unit', programs)
  if (absent !== undefined || process.getuid?.() !== 0) {
    say(absent ?? 'not tried: the systemd unit: only root can set it up here')
    return
  }
  if (spawnSync('/usr/bin/python3', ['-c', 'import seccomp']).status !== 0) {
    say('not tried: the systemd unit: python3-seccomp is not installed')
    return
  }
  const installed = mkdtempSync(join(tmpdir(), 'dropgate-opt-'))
  try {
    const args = ['install', '--global', '--offline', '--no-audit', '--no-fund', '--prefix']
    run('npm', [...args, installed, packed], installed)
    apart(join(import.meta.dirname, 'run-unit.ts'), [installed])
  } finally {
    rmSync(installed, { recursive: true, force: true })
  }
}
