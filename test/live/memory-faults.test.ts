// SPDX-License-Identifier: Apache-2.0
// Saves by real QEMUs that do not come to their end: the guest runs on, nothing is left of the file, and as long as storage
// only hangs, QEMU's monitor and ours answer.

import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { BENCH_GUEST, Guest } from '../helpers/migration/guest.js'
import { MemoryJob } from '../helpers/migration/memory-job.js'
import type { QemuVersion } from '../helpers/migration/qemu-system.js'
import { stallProbe } from '../helpers/migration/stall-probe.js'
import { wrongTick } from '../helpers/migration/ticks.js'
import { qemu, ticking } from '../helpers/migration/tiny-guest.js'
import type { How, MigrationEnd } from '../helpers/migration/transfer.js'
import { Probe } from '../helpers/probe.js'
import { isRecord } from '../helpers/qmp-client.js'
import { Scratch } from '../helpers/scratch.js'
import { SlowFs, slowfsAbsent } from '../helpers/slowfs.js'
import { pace } from '../helpers/waiting.js'

t.setTimeout(300_000)

const MACHINE = 'pc-q35-7.2'
const BOTH: readonly QemuVersion[] = ['7.2', '10']
/**
 * So slow that a save is under way for as long as a test wants. Without downtime: channels send the whole tiny guest in one
 * burst, and at that rate QEMU would take the rest for sent at once.
 */
const SLOWLY = { 'max-bandwidth': 65536, 'downtime-limit': 0 }
const CRAWL: How = { parameters: SLOWLY }
const CHANNELS: How = { capabilities: ['multifd'], parameters: { ...SLOWLY, 'multifd-channels': 2 } }

/** It runs and ticks without a gap. */
async function runsOn(t: Test, guest: Guest): Promise<void> {
  // QEMU 7.2 tells of a failure at the end just before it lets the guest go on.
  while ((await guest.status()) === 'finish-migrate') await pace(10)
  t.equal(await guest.status(), 'running')
  const { n } = await guest.tickBeyond(guest.tick()?.n ?? 0)
  await guest.tickBeyond(n + 2)
  t.equal(wrongTick(guest.serial()), undefined)
}

async function underWay(guest: Guest): Promise<void> {
  while ((await ram(guest, 'transferred')) === 0) await pace(10)
}

function remaining(guest: Guest): Promise<number> {
  return ram(guest, 'remaining')
}

/** Bytes of the migration that runs. */
async function ram(guest: Guest, of: 'transferred' | 'remaining'): Promise<number> {
  const info = await guest.qmp.execute('query-migrate')
  return isRecord(info) && isRecord(info.ram) ? Number(info.ram[of]) : 0
}

/** Files of a save, whole or not. */
function left(folder: string): string[] {
  return readdirSync(folder).filter((name) => name.includes('saved'))
}

for (const version of BOTH) {
  const skip = qemu[version].absent
  for (const [name, how, channels] of [
    ['', CRAWL, 0],
    [' with multifd', CHANNELS, 2],
  ] as const) {
    const start = async (daemon: Daemon, guest: Guest, folder: string) => {
      const source = `unix:${join(folder, 'from')}`
      const target = join(folder, 'saved')
      const args = { source, target, format: 'mapped-ram', 'multifd-channels': channels }
      const job = await MemoryJob.start(daemon.client, 'x-memory-save', args)
      const end: Promise<MigrationEnd> = guest.migrate(source, how)
      end.catch(() => undefined)
      await underWay(guest)
      return { job, end }
    }

    t.test(`QEMU ${version}'s guest runs on when the daemon is killed${name}`, { skip }, async (t) => {
      using scratch = new Scratch()
      await using daemon = await Daemon.start({ directory: scratch.path })
      await using guest = await ticking(scratch, version, MACHINE)
      const { end } = await start(daemon, guest, scratch.path)
      daemon.running.child.kill('SIGKILL')
      t.match(await end, { status: 'failed' })
      await runsOn(t, guest)
      t.notOk(existsSync(scratch.file('saved')), 'what is left has not the name')
    })

    t.test(`nothing is left when QEMU ${version} cancels${name}`, { skip }, async (t) => {
      using scratch = new Scratch()
      await using daemon = await Daemon.start({ directory: scratch.path })
      await using guest = await ticking(scratch, version, MACHINE)
      const { job, end } = await start(daemon, guest, scratch.path)
      await guest.qmp.execute('migrate_cancel')
      t.match(await end, { status: 'cancelled' })
      t.match(await job.ended(), /ends at offset|Connection reset/)
      await runsOn(t, guest)
      t.same(left(scratch.path), [])
      t.equal(await daemon.stop(), undefined)
    })

    t.test(`nothing is left when a save of QEMU ${version} is cancelled here${name}`, { skip }, async (t) => {
      using scratch = new Scratch()
      await using daemon = await Daemon.start({ directory: scratch.path })
      await using guest = await ticking(scratch, version, MACHINE)
      const { job, end } = await start(daemon, guest, scratch.path)
      await job.cancel()
      t.equal(await job.ended(), 'Operation canceled')
      t.match(await end, { status: 'failed' })
      await runsOn(t, guest)
      t.same(left(scratch.path), [])
      t.equal(await daemon.stop(), undefined)
    })

    t.test(`nothing is left when QEMU ${version} is killed${name}`, { skip }, async (t) => {
      using scratch = new Scratch()
      await using daemon = await Daemon.start({ directory: scratch.path })
      await using guest = await ticking(scratch, version, MACHINE)
      const { job } = await start(daemon, guest, scratch.path)
      await guest.kill()
      t.match(await job.ended(), /ends at offset|Connection reset/)
      t.same(left(scratch.path), [])
      t.equal(await daemon.stop(), undefined)
    })
  }
}

const slow = slowfsAbsent()
/** What a call on the target takes; and how long QEMU is watched while such calls are under way. */
const DELAY_MS = 4000
const WATCHED_MS = 3000
/** More than the daemon's buffers hold. */
const FILLED = { memory: '256M', kernel: BENCH_GUEST, append: 'mib=192' }

for (const version of BOTH) {
  const skip = qemu[version].absent || slow

  t.test(`monitors answer while a save of QEMU ${version} waits for its target`, { skip }, async (t) => {
    using scratch = new Scratch()
    const fs = await SlowFs.mount(scratch.path)
    try {
      await using daemon = await Daemon.start({ directory: scratch.path })
      const common = { qemu: qemu[version], folder: scratch.path, name: 'source', machine: MACHINE }
      await using guest = await Guest.start({ ...common, ...FILLED })
      await guest.says(/FILLED 192\n/)
      const source = `unix:${scratch.file('from')}`
      const args = { source, target: join(fs.mount, 'saved'), format: 'mapped-ram' }
      const job = await MemoryJob.start(daemon.client, 'x-memory-save', args)
      const flush = { op: 'fsync', delayMs: DELAY_MS } as const
      fs.rules({ op: 'write', delayMs: DELAY_MS }, flush)
      const probes = [await stallProbe(guest), await Probe.start(`${daemon.socket}1`)]
      const end = guest.migrate(source, { parameters: { 'downtime-limit': 1 } })
      end.catch(() => undefined)
      await pace(WATCHED_MS)
      t.ok((await remaining(guest)) > 0, 'QEMU waits')
      fs.rules(flush)
      while ((await flushAge(job)) === undefined) await pace(10)
      const results = await Promise.all(probes.map((probe) => probe.stop()))
      for (const [index, { answers, longest }] of results.entries()) {
        const whose = index === 0 ? 'QEMU' : 'the daemon'
        t.ok(answers > WATCHED_MS / 50, `${whose} answered`)
        t.ok(longest < DELAY_MS / 4, `${whose} was not silent for the time of a call, but for ${longest} ms`)
      }
      fs.rules()
      t.match(await end, { status: 'completed' })
      t.equal(await job.ended(), undefined)
      await guest.cont()
      await guest.press('v')
      t.match(await guest.says(/BAD \d+\n/), ['BAD 0\n'])
      t.equal(await daemon.stop(), undefined)
    } finally {
      await fs.unmount()
    }
  })

  for (const [name, op] of [
    ['writes', 'write'],
    ['a flush', 'fsync'],
  ] as const) {
    t.test(`QEMU ${version}'s guest runs on when ${name} of its save fail`, { skip }, async (t) => {
      using scratch = new Scratch()
      const fs = await SlowFs.mount(scratch.path)
      try {
        await using daemon = await Daemon.start({ directory: scratch.path })
        await using guest = await ticking(scratch, version, MACHINE)
        const source = `unix:${scratch.file('from')}`
        const target = join(fs.mount, 'saved')
        const job = await MemoryJob.start(daemon.client, 'x-memory-save', {
          source,
          target,
          format: 'mapped-ram',
        })
        fs.rules({ op, delayMs: 0, error: 'ENOSPC' })
        // QEMU waits until it is told that all is well, and is not.
        const end = await guest.migrate(source, { capabilities: ['return-path'] })
        t.match(await job.ended(), /No space left/)
        t.match(end, { status: 'failed' })
        await runsOn(t, guest)
        t.same(left(fs.files), [])
      } finally {
        await fs.unmount()
      }
    })
  }
}

/** Milliseconds; undefined when nothing is flushed. */
async function flushAge(job: MemoryJob): Promise<number | undefined> {
  const { 'x-phases': phases } = await job.info()
  const age = isRecord(phases) ? phases['flush-age-ms'] : undefined
  return age === undefined ? undefined : Number(age)
}
