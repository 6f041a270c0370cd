// SPDX-License-Identifier: Apache-2.0
// A guest whose memory lies in a shared file, which its QEMU leaves out of the stream: put together again it is a file that an
// ordinary QEMU, with memory of its own, goes on with.

import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { MemoryJob } from '../helpers/migration/memory-job.js'
import type { QemuVersion } from '../helpers/migration/qemu-system.js'
import { directAbsent, goesOn, inFile, qemu, stopped, waiting } from '../helpers/migration/tiny-guest.js'
import { Scratch } from '../helpers/scratch.js'

t.setTimeout(600_000)

const MACHINE = 'pc-q35-7.2'
const BOTH: readonly QemuVersion[] = ['7.2', '10']

for (const version of BOTH) {
  t.test(`a guest of QEMU ${version} with memory in a file`, { skip: qemu[version].absent }, async (t) => {
    using scratch = new Scratch()
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    const ram = scratch.file('ram')
    await using source = await stopped(scratch, version, `${MACHINE},memory-backend=mem0`, inFile(ram))
    for (const [format, more] of [
      ['mapped-ram', {}],
      ['stream', {}],
      ['libvirt-sparse', { xml: '<domain/>' }],
    ] as const) {
      await t.test(`becomes a whole ${format} file`, async (t) => {
        const [uri, file] = [`unix:${scratch.file('save')}`, scratch.file(format)]
        const parts = { ram: [{ block: 'mem0', file: ram }], rename: [{ from: 'mem0', to: 'pc.ram' }] }
        const args = { source: uri, target: file, format, ...parts, ...more }
        const saving = await MemoryJob.start(client, 'x-memory-save', args)
        t.match(await source.migrate(uri, { capabilities: ['x-ignore-shared'] }), { status: 'completed' })
        t.equal(await saving.ended(), undefined)
        const before = source.serial()

        if (format === 'mapped-ram' && !qemu['10'].absent) {
          for (const direct of directAbsent(scratch.file('direct')) ? [false] : [false, true]) {
            const parameters = { 'multifd-channels': 4, 'direct-io': direct }
            const how = { capabilities: ['mapped-ram', ...(direct ? ['multifd'] : [])], parameters }
            await using guest = await waiting(scratch, '10', MACHINE)
            t.match(await guest.load(`file:${file}`, how), { status: 'completed' })
            t.equal(await goesOn(guest, before), undefined, 'read by QEMU 10 itself')
          }
        }
        for (const into of BOTH) {
          if (qemu[into].absent) continue
          await using guest = await waiting(scratch, into, MACHINE)
          const target = `unix:${scratch.file('load')}`
          const incoming = await guest.incoming(target)
          const job = await MemoryJob.start(client, 'x-memory-restore', { source: file, target })
          t.match(await incoming.end(), { status: 'completed' })
          t.equal(await job.ended(), undefined)
          t.equal(await goesOn(guest, before), undefined, `sent to QEMU ${into}`)
        }
        await source.cont()
        await source.tickBeyond(source.tick()?.n ?? 0)
        await source.stop()
      })
    }
  })

  t.test(
    `a stream of QEMU ${version} and a file of memory are put together afterwards`,
    { skip: qemu[version].absent || qemu['10'].absent },
    async (t) => {
      using scratch = new Scratch()
      await using daemon = await Daemon.start({ directory: scratch.path })
      const { client } = daemon
      const ram = scratch.file('ram')
      await using source = await stopped(scratch, version, `${MACHINE},memory-backend=mem0`, inFile(ram))
      const [uri, stream, mapped] = [
        `unix:${scratch.file('save')}`,
        scratch.file('stream'),
        scratch.file('mapped'),
      ]
      const args = { source: uri, target: stream, format: 'stream' }
      const saving = await MemoryJob.start(client, 'x-memory-save', args)
      t.match(await source.migrate(uri, { capabilities: ['x-ignore-shared'] }), { status: 'completed' })
      t.equal(await saving.ended(), undefined)
      const converting = await MemoryJob.start(client, 'x-memory-convert', {
        ...{ source: stream, target: mapped, format: 'mapped-ram' },
        ...{ ram: [{ block: 'mem0', file: ram }], rename: [{ from: 'mem0', to: 'pc.ram' }] },
      })
      t.equal(await converting.ended(), undefined)
      await using guest = await waiting(scratch, '10', MACHINE)
      t.match(await guest.load(`file:${mapped}`, { capabilities: ['mapped-ram'] }), { status: 'completed' })
      t.equal(await goesOn(guest, source.serial()), undefined)
    },
  )

  t.test(`a stream of QEMU ${version} without its shared memory is refused by name`, async (t) => {
    if (qemu[version].absent) return t.comment(qemu[version].absent)
    using scratch = new Scratch()
    await using daemon = await Daemon.start({ directory: scratch.path })
    const machine = `${MACHINE},memory-backend=mem0`
    await using source = await stopped(scratch, version, machine, inFile(scratch.file('ram')))
    const uri = `unix:${scratch.file('save')}`
    const args = { source: uri, target: scratch.file('mapped'), format: 'mapped-ram' }
    const saving = await MemoryJob.start(daemon.client, 'x-memory-save', args)
    await source.migrate(uri, { capabilities: ['x-ignore-shared'] })
    t.match(await saving.ended(), /mem0/)
  })
}
