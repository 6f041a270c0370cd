// SPDX-License-Identifier: Apache-2.0
// The guest whose memory the benches save and restore: 3 GiB, of them 2600 MiB that neither compress nor repeat; or with
// `--size` so much, and some more memory.

import { loadavg } from 'node:os'
import { BENCH_GUEST, Guest } from '../helpers/migration/guest.js'
import { type QemuSystem, qemuSystem } from '../helpers/migration/qemu-system.js'
import { ferryRestorers } from './ferry-restorers.js'
import type { BenchOptions } from './options.js'
import { print, round } from './report.js'

const MACHINE = 'q35'
export const PAGE = 4096

/** MiB of data, and of memory. */
function sizes({ size }: BenchOptions): { readonly data: number; readonly memory: number } {
  if (size === undefined) return { data: 2600, memory: 3072 }
  const data = Math.ceil(size / 2 ** 22) * 4
  return { data, memory: data + 64 }
}

/** For headings. */
export function sizeText(options: BenchOptions): string {
  const { data, memory } = sizes(options)
  return `${memory} MiB of memory, ${data} MiB of it incompressible`
}

function common(options: BenchOptions, more = '') {
  const { data, memory } = sizes(options)
  return {
    folder: options.directory,
    ...{ memory: `${memory}M`, kernel: BENCH_GUEST, append: `mib=${data}${more}` },
  }
}

/** The versions that are here; the reasons why one is not are printed. */
export function qemus(options: BenchOptions): QemuSystem[] {
  const all = (['7.2', '10'] as const).map((version) => qemuSystem(version, options.qemu10))
  for (const { absent } of all) if (absent !== false) print(`<!-- ${absent} -->`)
  return all.filter(({ absent }) => absent === false)
}

/** Its memory is a file that QEMU shares. */
export interface MemoryFile {
  readonly path: string
}

/** Filled and stopped. @param dirty  MiB that it goes over when it dirties memory */
export async function filled(
  qemu: QemuSystem,
  options: BenchOptions,
  { file, dirty }: { readonly file?: MemoryFile; readonly dirty?: number } = {},
): Promise<Guest> {
  const { data, memory } = sizes(options)
  const backend = `memory-backend-file,id=mem0,size=${memory}M,mem-path=${file?.path},share=on`
  const guest = await Guest.start({
    ...{ qemu, name: `source-${qemu.version}` },
    machine: file === undefined ? MACHINE : `${MACHINE},memory-backend=mem0`,
    ...common(options, dirty === undefined ? '' : ` window=${dirty}`),
    args: file === undefined ? [] : ['-object', backend],
  })
  await guest.says(new RegExp(`FILLED ${data}\\n`), 300_000)
  await guest.stop()
  return guest
}

/**
 * Waits for a migration, with all its memory in place: where the host gives a virtual machine memory only when it is touched,
 * and takes free memory back, fetching it can take ten times as long as a restore. The block is called as without the option.
 */
export async function empty(qemu: QemuSystem, options: BenchOptions): Promise<Guest> {
  const size = `${sizes(options).memory}M`
  const memory = `memory-backend-ram,id=pc.ram,x-use-canonical-path-for-ramblock-id=off,size=${size},prealloc=on`
  return await Guest.start({
    ...{ qemu, name: `destination-${qemu.version}`, ...common(options) },
    ...{ machine: `${MACHINE},memory-backend=pc.ram`, args: ['-object', memory], incoming: true },
  })
}

export type MemoryFormat = 'stream' | 'mapped-ram'

/** Loads what was saved, by the fastest way there is. @throws Error when QEMU says it did not */
export async function read(guest: Guest, file: string, format: MemoryFormat): Promise<void> {
  const { version } = guest.options.qemu
  if (version === '7.2' && format === 'mapped-ram') {
    await ferryRestorers.mapped.restore({ guest, file })
    return
  }
  const uri = version === '10' ? `file:${file}` : `exec:cat ${file}`
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
