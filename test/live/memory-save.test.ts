// SPDX-License-Identifier: Apache-2.0
// A guest saved by real QEMUs through the daemon, in every way they migrate and into every format, and restored from each
// file: it goes on with the next tick and finds its memory right.

import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import type { Guest } from '../helpers/migration/guest.js'
import { MemoryJob } from '../helpers/migration/memory-job.js'
import type { QemuVersion } from '../helpers/migration/qemu-system.js'
import { directAbsent, goesOn, qemu, ticking, waiting } from '../helpers/migration/tiny-guest.js'
import type { How } from '../helpers/migration/transfer.js'
import { isRecord } from '../helpers/qmp-client.js'
import { Scratch } from '../helpers/scratch.js'

t.setTimeout(600_000)

const XML = '<domain type="qemu"><name>guest</name></domain>'

interface Format {
  readonly name: string
  readonly args: object
  /** Where QEMU finds the image; undefined where it cannot read the file itself. */
  readonly offset?: number
}

const MAPPED: Format = { name: 'mapped-ram', args: { format: 'mapped-ram' }, offset: 0 }
const ODD = 12345
const STREAM: Format = { name: 'stream', args: { format: 'stream' } }
const FORMATS: readonly Format[] = [
  MAPPED,
  STREAM,
  { name: 'mapped-ram at an odd offset', args: { format: 'mapped-ram', offset: ODD }, offset: ODD },
  { name: 'libvirt-raw', args: { format: 'libvirt-raw', xml: XML } },
  { name: 'libvirt-sparse', args: { format: 'libvirt-sparse', xml: XML } },
]

/** How a QEMU is told to migrate. */
interface Way extends How {
  readonly name: string
  readonly by?: readonly QemuVersion[]
  /** The guest runs meanwhile. */
  readonly live?: boolean
  /** Connections beside the first. */
  readonly channels?: number
  readonly formats?: readonly Format[]
}

const BOTH: readonly QemuVersion[] = ['7.2', '10']
/** Slow enough that memory is gone over more than once. */
const SLOW = { 'max-bandwidth': 4 * 2 ** 20, 'downtime-limit': 20 }

function multifd(channels: number, live = false, compression = 'none'): Way {
  const parameters = {
    ...{ 'multifd-channels': channels, 'multifd-compression': compression },
    ...(live && SLOW),
    ...(live && compression !== 'none' && { 'max-bandwidth': 2 ** 20 }),
  }
  const name = `multifd ${channels}${live ? ', live' : ''}${compression === 'none' ? '' : `, ${compression}`}`
  return { name, live, channels, capabilities: ['multifd'], parameters }
}

const WAYS: readonly Way[] = [
  { name: 'stopped', formats: FORMATS },
  { name: 'live', live: true, parameters: SLOW, formats: [MAPPED, STREAM] },
  { name: 'live with a return path', live: true, capabilities: ['return-path'] },
  { name: 'background-snapshot', live: true, capabilities: ['background-snapshot'] },
  // What QEMU 7.2 sends with it does not restore anywhere.
  { name: 'live with xbzrle', by: ['10'], live: true, capabilities: ['xbzrle'], parameters: SLOW },
  multifd(1),
  multifd(4),
  { ...multifd(4, true), formats: [MAPPED, STREAM] },
  multifd(2, true, 'zlib'),
  multifd(2, true, 'zstd'),
]

const MACHINES: Readonly<Record<QemuVersion, readonly string[]>> = {
  '7.2': ['pc-q35-7.2'],
  // What is sent with multifd depends on it.
  '10': ['pc-q35-7.2', 'pc-i440fx-10.0'],
}

interface Saved {
  readonly daemon: Daemon
  readonly scratch: Scratch
  readonly machine: string
  readonly file: string
  readonly format: Format
  /** What the guest said before. */
  readonly before: string
}

for (const way of WAYS) {
  for (const version of way.by ?? BOTH) {
    for (const machine of MACHINES[version]) {
      const skip = qemu[version].absent
      t.test(`QEMU ${version}, ${machine}: ${way.name}`, { skip }, async (t) => {
        using scratch = new Scratch()
        await using daemon = await Daemon.start({ directory: scratch.path })
        await using guest = await ticking(scratch, version, machine)
        for (const format of way.formats ?? [MAPPED]) {
          await t.test(`is saved as ${format.name}`, async (t) => {
            const file = scratch.file('saved')
            const before = await save(t, daemon, guest, { way, file, format })
            await restoreEverywhere(t, { daemon, scratch, machine, file, format, before })
          })
        }
        t.equal(await daemon.stop(), undefined)
      })
    }
  }
}

/** @returns what the guest had said when its memory was whole */
async function save(
  t: Test,
  daemon: Daemon,
  guest: Guest,
  { way, file, format }: { way: Way; file: string; format: Format },
): Promise<string> {
  const { live = false, channels = 0, capabilities } = way
  await guest.tickBeyond(guest.tick()?.n ?? 0)
  if (!live) await guest.stop()
  const source = `unix:${file}.sock`
  const args = { source, target: file, 'multifd-channels': channels, ...format.args }
  const job = await MemoryJob.start(daemon.client, 'x-memory-save', args)
  t.match(await guest.migrate(source, way), { status: 'completed', error: undefined })
  t.equal(await job.ended(), undefined)
  t.ok(way.parameters?.['max-bandwidth'] === undefined || (await walks(guest)) > 2, 'some pages came twice')
  // A background snapshot has the memory of its beginning, which is nowhere in the text.
  if (capabilities?.includes('background-snapshot')) return ''
  const before = guest.serial()
  await guest.cont()
  return before
}

/** How often it went over its memory in the last migration. */
async function walks(guest: Guest): Promise<number> {
  const info = await guest.qmp.execute('query-migrate')
  const ram = isRecord(info) && isRecord(info.ram) ? info.ram : {}
  return Number(ram['dirty-sync-count'])
}

/** By QEMU itself where it can, and through the daemon. */
async function restoreEverywhere(t: Test, saved: Saved): Promise<void> {
  const { daemon, scratch, machine, file, format, before } = saved
  if (format.offset !== undefined && !qemu['10'].absent) {
    for (const how of READERS) {
      if (how.parameters['direct-io'] && directAbsent(scratch.file('direct'))) continue
      await using guest = await waiting(scratch, '10', machine)
      t.match(await guest.load(`file:${file},offset=${format.offset}`, how), { status: 'completed' })
      t.equal(await goesOn(guest, before), undefined, 'read by QEMU 10 itself')
    }
  }
  for (const version of machine.endsWith('10.0') ? (['10'] as const) : BOTH) {
    if (qemu[version].absent) continue
    await using guest = await waiting(scratch, version, machine)
    const target = `unix:${file}.in`
    const incoming = await guest.incoming(target)
    const args = { source: file, offset: format.offset ?? 0, target }
    const job = await MemoryJob.start(daemon.client, 'x-memory-restore', args)
    t.match(await incoming.end(), { status: 'completed' })
    t.equal(await job.ended(), undefined)
    t.equal(await goesOn(guest, before), undefined, `sent to QEMU ${version}`)
  }
}

/** Ways of QEMU to read a mapped-ram file. */
const READERS = [
  { capabilities: ['mapped-ram'], parameters: { 'direct-io': false } },
  { capabilities: ['mapped-ram', 'multifd'], parameters: { 'multifd-channels': 4, 'direct-io': true } },
] as const
