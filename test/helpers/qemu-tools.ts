// SPDX-License-Identifier: Apache-2.0
// qemu-img and qemu-io as the machine has them, and as a Debian folder named by QEMU10_ROOT has them.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { inFolder } from './debian-folder.js'
import { installed } from './program.js'

export interface QemuTools {
  readonly name: string
  /** Why they cannot be used, for skipping. */
  readonly absent: string | false
  /** Runs one that must succeed. @returns what it says */
  run(folder: string, program: 'qemu-img' | 'qemu-io', ...args: string[]): string
}

const ofMachine: QemuTools = {
  name: 'the installed QEMU',
  absent: installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io',
  run: (_folder, program, ...args) => must(program, ...args),
}

function ofFolder(root: string | undefined): QemuTools {
  const there = root !== undefined && existsSync(`${root}/usr/bin/qemu-img`)
  return {
    name: 'QEMU 10',
    absent: there ? false : 'no qemu-img 10 (QEMU10_ROOT may name a Debian folder with one)',
    run: (folder, program, ...args) => must(...inFolder(String(root), folder, program, ...args)),
  }
}

export const qemuTools: readonly QemuTools[] = [ofMachine, ofFolder(process.env.QEMU10_ROOT)]

function must(program: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${error?.message ?? ''}${stderr}${stdout}`)
  return stdout
}
