// SPDX-License-Identifier: Apache-2.0
// Which QEMU there is to run guests with: the machine's, or that of a Debian folder. Used by guest.ts.

import { spawnSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { inFolder } from '../debian-folder.js'
import { installed } from '../program.js'

/** 7.2 is the oldest whose memory files are taken, and knows neither `file:` nor mapped-ram; 10 writes mapped-ram. */
export type QemuVersion = '7.2' | '10'

export interface QemuSystem {
  readonly version: QemuVersion
  /** As it names itself, such as 'QEMU 10.0.13'. */
  readonly name: string
  /** Why it cannot be used, or false: the value of a test's `skip`. */
  readonly absent: string | false
  /** How to start it; in a Debian folder, with `folder` at the same path inside. */
  command(folder: string): readonly [string, ...string[]]
}

const EMULATOR = 'qemu-system-x86_64'
/** The kernel ends it together with us, whatever ends us. */
const UNORPHANED = ['setpriv', '--pdeathsig', 'KILL'] as const

type Start = QemuSystem['command']

const ofMachine: Start = () => (installed('setpriv') ? [...UNORPHANED, EMULATOR] : [EMULATOR])
const ofFolder =
  (root: string): Start =>
  (folder) =>
    inFolder(root, folder, ...UNORPHANED, EMULATOR)

/** @param root  the Debian folder that may have it; by default QEMU10_ROOT names one */
export function qemuSystem(version: QemuVersion, root = process.env.QEMU10_ROOT): QemuSystem {
  const ways = [ofMachine, ...(root === undefined ? [] : [ofFolder(root)])]
  const reasons: string[] = []
  for (const command of ways) {
    const found = versionOf(command)
    if (found instanceof Error) reasons.push(found.message)
    else if (found.startsWith(`${version}.`))
      return { version, name: `QEMU ${found}`, absent: false, command }
    else reasons.push(`there is ${found}`)
  }
  if (root === undefined) reasons.push('QEMU10_ROOT may name a Debian folder with another')
  const absent = `no ${EMULATOR} ${version}: ${reasons.join('; ')}`
  return { version, name: `QEMU ${version}`, absent, command: ofMachine }
}

function versionOf(start: Start): string | Error {
  const [program, ...args] = start(tmpdir())
  const { stdout, stderr, error } = spawnSync(program, [...args, '--version'], { encoding: 'utf8' })
  const found = /version (\d+\.\d+\.\d+)/.exec(stdout ?? '')?.[1]
  return found ?? new Error(error?.message ?? (stderr.trim() || 'it does not tell its version'))
}
