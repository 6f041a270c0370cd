// SPDX-License-Identifier: Apache-2.0
// Memory files sent to real QEMUs that come in, with and without the channels of multifd, and converted on the way there.

import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { type MemoryCommand, MemoryJob } from '../helpers/migration/memory-job.js'
import type { QemuVersion } from '../helpers/migration/qemu-system.js'
import { goesOn, qemu, stopped, waiting } from '../helpers/migration/tiny-guest.js'
import { installed } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { Scratch } from '../helpers/scratch.js'

t.setTimeout(600_000)

const BOTH: readonly QemuVersion[] = ['7.2', '10']
const XML = '<domain type="qemu"><name>guest</name></domain>'

interface Sent {
  readonly name: string
  /** Connections beside the first. */
  readonly channels: number
  readonly more?: object
}

const SENT: readonly Sent[] = [
  { name: 'over one connection with zero pages', channels: 0, more: { 'zero-pages': true } },
  { name: 'over 1 channel', channels: 1 },
  { name: 'over 4 channels with zero pages', channels: 4, more: { 'zero-pages': true } },
  { name: 'over 4 channels in small slices', channels: 4, more: { 'max-bandwidth': 8 * 2 ** 20 } },
]

/** Runs one to its end. @returns why it failed, or undefined */
async function run(client: QmpClient, command: MemoryCommand, args: object): Promise<string | undefined> {
  return await (await MemoryJob.start(client, command, args)).ended()
}

for (const [by, machine] of [
  ['7.2', 'pc-i440fx-7.2'],
  ['10', 'pc-q35-7.2'],
  ['10', 'pc-q35-10.0'],
] as const) {
  t.test(`a ${machine} guest that QEMU ${by} saved`, { skip: qemu[by].absent }, async (t) => {
    using scratch = new Scratch()
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    await using source = await stopped(scratch, by, machine)
    const uri = `unix:${scratch.file('save')}`
    const target = scratch.file('stream')
    const saving = await MemoryJob.start(client, 'x-memory-save', { source: uri, target, format: 'stream' })
    t.match(await source.migrate(uri), { status: 'completed' })
    t.equal(await saving.ended(), undefined)
    // Around through every format.
    for (const [from, to, more] of [
      ['stream', 'libvirt-sparse', { xml: XML }],
      ['libvirt-sparse', 'mapped-ram', { offset: 4097 }],
      ['mapped-ram', 'libvirt-raw', { 'source-offset': 4097, xml: XML }],
    ] as const) {
      const args = { source: scratch.file(from), target: scratch.file(to), format: to, ...more }
      t.equal(await run(client, 'x-memory-convert', args), undefined, `${from} to ${to}`)
    }
    const files = { 'mapped-ram': 4097, 'libvirt-raw': 0 }
    for (const version of machine === 'pc-q35-10.0' ? (['10'] as const) : BOTH) {
      for (const [file, offset] of Object.entries(files)) {
        for (const { name, channels, more } of SENT) {
          const skip = qemu[version].absent
          await t.test(`goes from ${file} to QEMU ${version} ${name}`, { skip }, async (t) => {
            await using guest = await waiting(scratch, version, machine)
            const target = `unix:${scratch.file('load')}`
            const capabilities = channels > 0 ? ['multifd'] : []
            const parameters = channels > 0 ? { 'multifd-channels': channels } : {}
            const incoming = await guest.incoming(target, { capabilities, parameters })
            const args = { source: scratch.file(file), offset, target, 'multifd-channels': channels, ...more }
            t.equal(await run(client, 'x-memory-restore', args), undefined)
            t.match(await incoming.end(), { status: 'completed' })
            t.equal(await goesOn(guest, source.serial()), undefined)
          })
        }
      }
    }
    t.equal(await daemon.stop(), undefined)
  })
}

const socat = installed('socat', '-V') ? false : 'no socat'

t.test('who connects gets the memory', { skip: qemu['7.2'].absent || socat }, async (t) => {
  using scratch = new Scratch()
  await using daemon = await Daemon.start({ directory: scratch.path })
  const { client } = daemon
  const machine = 'pc-q35-7.2'
  await using source = await stopped(scratch, '7.2', machine)
  const uri = `unix:${scratch.file('save')}`
  const mapped = scratch.file('mapped')
  const save = { source: uri, target: mapped, format: 'mapped-ram' }
  const saving = await MemoryJob.start(client, 'x-memory-save', save)
  t.match(await source.migrate(uri), { status: 'completed' })
  t.equal(await saving.ended(), undefined)
  const target = `unix:${scratch.file('load')}`
  const job = await MemoryJob.start(client, 'x-memory-restore', { source: mapped, target, listen: true })
  await using guest = await waiting(scratch, '7.2', machine)
  // QEMU itself only listens; what connects is a command of its.
  t.match(await guest.load(`exec:socat -u UNIX-CONNECT:${scratch.file('load')} -`), { status: 'completed' })
  t.equal(await job.ended(), undefined)
  t.equal(await goesOn(guest, source.serial()), undefined)
})
