// SPDX-License-Identifier: Apache-2.0
// The guest whose memory the benches save and restore: 3 GiB, of them 2600 MiB that neither compress nor repeat.

import { loadavg } from 'node:os'
import { BENCH_GUEST, Guest } from '../helpers/migration/guest.js'
import { type QemuSystem, qemuSystem } from '../helpers/migration/qemu-system.js'
import type { BenchOptions } from './options.js'
import { print, round } from './report.js'

const COMMON = { machine: 'q35', memory: '3G', kernel: BENCH_GUEST, append: 'mib=2600' }
export const PAGE = 4096

/** The versions that are here; the reasons why one is not are printed. */
export function qemus(options: BenchOptions): QemuSystem[] {
  const all = (['7.2', '10'] as const).map((version) => qemuSystem(version, options.qemu10))
  for (const { absent } of all) if (absent !== false) print(`<!-- ${absent} -->`)
  return all.filter(({ absent }) => absent === false)
}

/** Filled and stopped. */
export async function filled(qemu: QemuSystem, folder: string): Promise<Guest> {
  const guest = await Guest.start({ qemu, folder, name: `source-${qemu.version}`, ...COMMON })
  await guest.says(/FILLED 2600\n/, 300_000)
  await guest.stop()
  return guest
}

/**
 * Waits for a migration, with all its memory in place: where the host gives a virtual machine memory only when it is touched,
 * and takes free memory back, fetching it can take ten times as long as a restore. The block is called as without the option.
 */
export async function empty(qemu: QemuSystem, folder: string): Promise<Guest> {
  const name = `destination-${qemu.version}`
  const memory = 'memory-backend-ram,id=pc.ram,x-use-canonical-path-for-ramblock-id=off,size=3G,prealloc=on'
  const machine = `${COMMON.machine},memory-backend=pc.ram`
  return await Guest.start({
    ...{ qemu, folder, name, ...COMMON, machine },
    ...{ args: ['-object', memory], incoming: true },
  })
}

export type MemoryFormat = 'stream' | 'mapped-ram'

/** Loads what was saved, by the fastest way there is. @throws Error when QEMU says it did not */
export async function read(guest: Guest, file: string, format: MemoryFormat): Promise<void> {
  const uri = guest.options.qemu.version === '10' ? `file:${file}` : `exec:cat ${file}`
  const mapped = { capabilities: ['mapped-ram', 'multifd'], parameters: { 'multifd-channels': 4 } }
  const { status, error } = await guest.load(uri, format === 'mapped-ram' ? mapped : {})
  if (status !== 'completed') throw new Error(`load ${status}: ${error}`)
}

/** Lets a restored guest compare its memory. @throws Error when a word is wrong */
export async function verify(guest: Guest): Promise<void> {
  if ((await guest.status()) === 'paused') await guest.cont()
  await guest.press('v')
  const [said] = await guest.says(/BAD \d+\n/, 300_000)
  if (said !== 'BAD 0\n') throw new Error(`the restored guest says ${said}`)
}

/** A comment on one run, with the machine's load beside it. */
export function remark(text: string): void {
  print(`<!-- ${text}; load ${round(loadavg()[0] ?? 0)} -->`)
}
