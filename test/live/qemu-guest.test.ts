// SPDX-License-Identifier: Apache-2.0
// QEMU with itself: the guest that the tests of memory files use is saved and restored by both versions in every way that
// is known to work, and goes on where it was. What these tests find is wrong with the harness, not with the daemon.

import { copyFileSync, statSync } from 'node:fs'
import t from 'tap'
import { BENCH_GUEST, Guest } from '../helpers/migration/guest.js'
import type { QemuVersion } from '../helpers/migration/qemu-system.js'
import { stallProbe } from '../helpers/migration/stall-probe.js'
import { receiveStream, sendStream } from '../helpers/migration/streams.js'
import { wrongTick } from '../helpers/migration/ticks.js'
import { directAbsent, goesOn, inFile, qemu, stopped, waiting } from '../helpers/migration/tiny-guest.js'
import type { How } from '../helpers/migration/transfer.js'
import { Scratch } from '../helpers/scratch.js'

t.setTimeout(600_000)

/** 7.2 has no `file:`; a shell's redirection is its way. */
const save: Readonly<Record<QemuVersion, (file: string) => string>> = {
  '7.2': (file) => `exec:cat > ${file}`,
  '10': (file) => `file:${file}`,
}
const read: typeof save = { '7.2': (file) => `exec:cat ${file}`, '10': (file) => `file:${file}` }

interface Plain {
  readonly by: QemuVersion
  readonly machine: string
  readonly into: readonly QemuVersion[]
}

const PLAIN: readonly Plain[] = [
  { by: '7.2', machine: 'pc-q35-7.2', into: ['7.2', '10'] },
  { by: '7.2', machine: 'pc-i440fx-7.2', into: ['7.2', '10'] },
  { by: '10', machine: 'pc-q35-7.2', into: ['10', '7.2'] },
  { by: '10', machine: 'pc-i440fx-7.2', into: ['10', '7.2'] },
  { by: '10', machine: 'pc-q35-10.0', into: ['10'] },
  { by: '10', machine: 'pc-i440fx-10.0', into: ['10'] },
]

interface Mapped extends How {
  readonly name: string
  readonly direct?: boolean
}

function channels(count: number, direct = false): Mapped {
  const parameters = { 'multifd-channels': count, 'direct-io': direct }
  const name = `${count} channels${direct ? ' and direct-io' : ''}`
  return { name, direct, capabilities: ['mapped-ram', 'multifd'], parameters }
}

const ONE: Mapped = { name: 'one thread', capabilities: ['mapped-ram'] }
const SAVES: readonly Mapped[] = [ONE, channels(2), channels(4), channels(4, true)]
const LOADS: readonly Mapped[] = [ONE, channels(4), channels(4, true)]

for (const { by, machine, into } of PLAIN) {
  for (const version of into) {
    const skip = qemu[by].absent || qemu[version].absent
    t.test(`QEMU ${version} goes on with a ${machine} guest that QEMU ${by} saved`, { skip }, async (t) => {
      using scratch = new Scratch()
      await using source = await stopped(scratch, by, machine)
      const saved = await source.migrate(save[by](scratch.file('stream')))
      t.match(saved, { status: 'completed', error: undefined })
      await using destination = await waiting(scratch, version, machine)
      t.match(await destination.load(read[version](scratch.file('stream'))), { status: 'completed' })
      t.equal(await goesOn(destination, source.serial()), undefined)
    })
  }
}

for (const saved of SAVES) {
  t.test(`a mapped-ram file written by ${saved.name}`, { skip: qemu['10'].absent }, async (t) => {
    using scratch = new Scratch()
    const direct = directAbsent(scratch.file('direct'))
    if (saved.direct && direct) return t.comment(direct)
    const machine = 'pc-q35-10.0'
    await using source = await stopped(scratch, '10', machine)
    t.match(await source.migrate(`file:${scratch.file('mapped')}`, saved), { status: 'completed' })
    for (const loaded of LOADS) {
      await t.test(`is read by ${loaded.name}`, { skip: loaded.direct ? direct : false }, async (t) => {
        await using destination = await waiting(scratch, '10', machine)
        t.match(await destination.load(`file:${scratch.file('mapped')}`, loaded), { status: 'completed' })
        t.equal(await goesOn(destination, source.serial()), undefined)
      })
    }
  })
}

for (const version of ['7.2', '10'] as const) {
  const { absent: skip } = qemu[version]
  const machine = 'pc-q35-7.2'

  t.test(`QEMU ${version} saves a running guest to a socket and reads it from one`, { skip }, async (t) => {
    using scratch = new Scratch()
    const stream = scratch.file('stream')
    await using source = await stopped(scratch, version, machine)
    await source.cont()
    await using receiver = await receiveStream(scratch.file('to'), stream)
    t.match(await source.migrate(receiver.uri), { status: 'completed' })
    t.ok((await receiver.received) > 2 ** 20)
    await using destination = await waiting(scratch, version, machine)
    const incoming = await destination.incoming(`unix:${scratch.file('from')}`)
    await sendStream(stream, scratch.file('from'))
    t.match(await incoming.end(), { status: 'completed' })
    t.equal(await destination.status(), 'running')
    t.equal(await goesOn(destination, source.serial()), undefined)
  })

  t.test(
    `QEMU ${version} goes on with memory in a shared file that its stream leaves out`,
    { skip },
    async (t) => {
      using scratch = new Scratch()
      const how = { capabilities: ['x-ignore-shared'] }
      const shared = `${machine},memory-backend=mem0`
      await using source = await stopped(scratch, version, shared, inFile(scratch.file('ram')))
      const file = scratch.file('stream')
      t.match(await source.migrate(save[version](file), how), { status: 'completed' })
      t.ok(statSync(file).size < 2 ** 20)
      copyFileSync(scratch.file('ram'), scratch.file('copy'))
      await using destination = await waiting(scratch, version, shared, inFile(scratch.file('copy')))
      t.match(await destination.load(read[version](file), how), { status: 'completed' })
      t.equal(await goesOn(destination, source.serial()), undefined)
    },
  )

  t.test(
    `QEMU ${version} finds the bench guest's memory right after a save while it writes`,
    { skip },
    async (t) => {
      using scratch = new Scratch()
      const bench = { machine, memory: '128M', kernel: BENCH_GUEST, append: 'mib=96 window=32' }
      const common = { qemu: qemu[version], folder: scratch.path, ...bench }
      await using source = await Guest.start({ ...common, name: 'source' })
      await source.says(/FILLED 96\n/)
      await source.press('d')
      await source.says(/DIRTY 16\n/)
      const file = scratch.file('stream')
      t.match(await source.migrate(save[version](file)), { status: 'completed' })
      await using destination = await Guest.start({ ...common, name: 'destination', incoming: true })
      t.match(await destination.load(read[version](file)), { status: 'completed' })
      await destination.press('v')
      t.match(await destination.says(/BAD \d+\n/), ['BAD 0\n'])
    },
  )

  t.test(`QEMU ${version} goes on after a save, and can be saved again`, { skip }, async (t) => {
    using scratch = new Scratch()
    await using guest = await stopped(scratch, version, machine)
    for (const name of ['one', 'two']) {
      t.match(await guest.migrate(save[version](scratch.file(name))), { status: 'completed' })
      t.equal(await guest.status(), 'postmigrate')
      await guest.cont()
      await guest.tickBeyond(guest.tick()?.n ?? 0)
      await guest.stop()
    }
    t.equal(wrongTick(guest.serial()), undefined)
  })

  t.test(`QEMU ${version} tells why a save failed, and its guest runs on`, { skip }, async (t) => {
    using scratch = new Scratch()
    await using guest = await stopped(scratch, version, machine)
    await guest.cont()
    const { status, error } = await guest.migrate('exec:exit 1')
    t.equal(status, 'failed')
    t.match(error, /broken pipe|input\/output error/i)
    t.equal(await guest.status(), 'running')
    await guest.tickBeyond(guest.tick()?.n ?? 0)
    t.equal(wrongTick(guest.serial()), undefined)
  })

  t.test(`QEMU ${version} tells why a load failed, ending or not`, { skip }, async (t) => {
    using scratch = new Scratch()
    await using guest = await waiting(scratch, version, machine)
    const load = guest.load('exec:echo no migration stream')
    if (version === '10') t.match(await load, { status: 'failed', error: /load of migration failed/ })
    else await t.rejects(load, { message: /ended with 1: .*not a migration stream/is })
  })

  t.test(`the monitor of QEMU ${version} is watched while the guest runs`, { skip }, async (t) => {
    using scratch = new Scratch()
    await using guest = await stopped(scratch, version, machine)
    const probe = await stallProbe(guest)
    await guest.cont()
    await guest.tickBeyond(guest.tick()?.n ?? 0)
    const { answers, p99, longest } = await probe.stop()
    t.ok(answers > 0 && longest >= p99 && p99 > 0)
  })

  t.test(`no process of QEMU ${version} is left when a test fails`, { skip }, async (t) => {
    using scratch = new Scratch()
    let pid = 0
    await t.rejects(async () => {
      await using guest = await stopped(scratch, version, machine)
      pid = guest.pid
      throw new Error('as a failed test does')
    })
    t.throws(() => process.kill(pid, 0), { code: 'ESRCH' })
  })
}
