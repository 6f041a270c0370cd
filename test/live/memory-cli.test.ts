// SPDX-License-Identifier: Apache-2.0
// `blockferry memory` with real QEMUs: it drives one through a save, and whatever happens, the guest runs on and QEMU's
// settings are as they were.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import t, { type Test } from 'tap'
import { command, type Run, run } from '../daemon/cli/run.js'
import { appears, startDaemon } from '../helpers/daemon-process.js'
import type { Guest } from '../helpers/migration/guest.js'
import type { QemuVersion } from '../helpers/migration/qemu-system.js'
import { wrongTick } from '../helpers/migration/ticks.js'
import { goesOn, inFile, qemu, ticking, waiting } from '../helpers/migration/tiny-guest.js'
import { Scratch } from '../helpers/scratch.js'
import { pace } from '../helpers/waiting.js'

t.setTimeout(600_000)

const MACHINE = 'pc-q35-7.2'
const BOTH: readonly QemuVersion[] = ['7.2', '10']
/** Nothing but the progress of what takes long. */
const QUIET = /^(\w+ [\d.]+%, .*\n)*$/
const ENDED = ['completed', 'failed', 'cancelled', undefined]

/** Its sockets are where a QEMU in a Debian folder finds them too. */
function ferry(scratch: Scratch, ...args: readonly string[]): Promise<Run> {
  return run(['memory', ...args], { env: { TMPDIR: scratch.path } })
}

/** What a save changes and has to put back. */
async function settings(guest: Guest): Promise<unknown> {
  return [
    await guest.qmp.execute('query-migrate-capabilities'),
    await guest.qmp.execute('query-migrate-parameters'),
  ]
}

async function migrationStatus(guest: Guest): Promise<string | undefined> {
  const { status } = (await guest.qmp.execute('query-migrate')) as { status?: string }
  return status
}

/** It runs, ticks without a gap, and QEMU does nothing else any more. */
async function runsOn(t: Test, guest: Guest, before: unknown): Promise<void> {
  t.equal(await guest.status(), 'running')
  const { n } = await guest.tickBeyond(guest.tick()?.n ?? 0)
  await guest.tickBeyond(n + 2)
  t.equal(wrongTick(guest.serial()), undefined)
  t.same(await settings(guest), before)
  t.ok(ENDED.includes(await migrationStatus(guest)))
}

for (const version of BOTH) {
  const skip = qemu[version].absent

  t.test(`saves a guest of QEMU ${version} over its monitor and sends it back`, { skip }, async (t) => {
    using scratch = new Scratch()
    await using guest = await ticking(scratch, version, MACHINE)
    const before = await settings(guest)
    for (const [name, ...options] of [
      ['stopped'],
      ['live', '--live'],
      ['channels', '--multifd-channels', '2'],
      ['live channels', '--live', '--multifd-channels', '2', '--to', 'stream'],
    ] as const) {
      const file = scratch.file(name)
      const args = ['save', '--qmp', guest.monitor('other'), ...options, file]
      t.match(
        await ferry(scratch, ...args),
        { status: 0, stdout: /^saved memory to .* flushed\n$/, stderr: QUIET },
        name,
      )
      await runsOn(t, guest, before)
      await using destination = await waiting(scratch, version, MACHINE)
      const uri = `unix:${scratch.file('in')}`
      const incoming = await destination.incoming(uri)
      t.match(await ferry(scratch, 'restore', file, uri), { status: 0, stderr: QUIET }, name)
      t.match(await incoming.end(), { status: 'completed' })
      // The guest that was saved has gone on meanwhile: only what the restored one says itself can be compared.
      t.equal(await goesOn(destination, ''), undefined)
    }
  })

  t.test(`reads the memory of a guest of QEMU ${version} from its file`, { skip }, async (t) => {
    using scratch = new Scratch()
    const machine = `${MACHINE},memory-backend=mem0`
    await using guest = await ticking(scratch, version, machine, inFile(scratch.file('ram')))
    const before = await settings(guest)
    const file = scratch.file('saved')
    const args = ['save', '--qmp', guest.monitor('other'), '--rename', 'mem0=pc.ram', file]
    t.match(await ferry(scratch, ...args), { status: 0, stderr: QUIET })
    await runsOn(t, guest, before)
    await using destination = await waiting(scratch, version, MACHINE)
    const uri = `unix:${scratch.file('in')}`
    const incoming = await destination.incoming(uri)
    t.match(await ferry(scratch, 'restore', file, uri), { status: 0, stderr: QUIET })
    t.match(await incoming.end(), { status: 'completed' })
    t.equal(await goesOn(destination, ''), undefined)
  })

  t.test(`leaves a guest of QEMU ${version} as it is said`, { skip }, async (t) => {
    using scratch = new Scratch()
    await using guest = await ticking(scratch, version, MACHINE)
    const save = ['save', '--qmp', guest.monitor('other'), '--afterwards']
    t.match(await ferry(scratch, ...save, 'stop', scratch.file('one')), { status: 0, stderr: QUIET })
    t.equal(await guest.status(), 'postmigrate')
    await guest.cont()
    t.match(await ferry(scratch, ...save, 'quit', scratch.file('two')), { status: 0, stderr: QUIET })
    t.equal(await guest.running.ended(10_000), 0)
  })

  for (const [name, target] of [
    ['a folder that is not there', 'nowhere/saved'],
    ['a folder', 'folder'],
  ] as const) {
    t.test(`QEMU ${version} and its guest go on after a save to ${name}`, { skip }, async (t) => {
      using scratch = new Scratch()
      mkdirSync(scratch.file('folder'))
      await using guest = await ticking(scratch, version, MACHINE)
      const before = await settings(guest)
      const qmp = ['--qmp', guest.monitor('other')]
      const { status, stderr } = await ferry(scratch, 'save', ...qmp, scratch.file(target))
      t.equal(status, 1)
      t.match(stderr, new RegExp(`^blockferry: .*${target}`))
      await runsOn(t, guest, before)
      t.same(parts(scratch.path), [])
    })
  }

  for (const [name, signal, live] of [
    ['an interrupted save', 'SIGINT', false],
    ['an interrupted live save', 'SIGINT', true],
    ['the end of the terminal', 'SIGHUP', false],
  ] as const) {
    t.test(`QEMU ${version} and its guest go on after ${name}`, { skip }, async (t) => {
      using scratch = new Scratch()
      await using guest = await ticking(scratch, version, MACHINE)
      const before = await settings(guest)
      // So slow that it is under way when the signal comes.
      const options = ['--rate', '256K', ...(live ? ['--live'] : [])]
      const args = ['memory', 'save', '--qmp', guest.monitor('other'), ...options, scratch.file('saved')]
      await using child = started(scratch, args)
      while ((await migrationStatus(guest)) !== 'active') await pace(10)
      child.process.kill(signal)
      await child.ended
      await runsOn(t, guest, before)
      t.same(parts(scratch.path), [])
      t.notOk(existsSync(scratch.file('saved')))
    })
  }

  t.test(`a guest of QEMU ${version} runs on when a live save is killed`, { skip }, async (t) => {
    using scratch = new Scratch()
    await using guest = await ticking(scratch, version, MACHINE)
    const options = ['--live', '--rate', '256K', scratch.file('saved')]
    await using child = started(scratch, ['memory', 'save', '--qmp', guest.monitor('other'), ...options])
    while ((await migrationStatus(guest)) !== 'active') await pace(10)
    child.process.kill('SIGKILL')
    await child.ended
    while ((await migrationStatus(guest)) === 'active') await pace(10)
    t.equal(await migrationStatus(guest), 'failed')
    t.equal(await goesOn(guest, ''), undefined)
    t.notOk(existsSync(scratch.file('saved')))
  })
}

for (const version of BOTH) {
  t.test(
    `a guest of QEMU ${version} goes on when the daemon is killed`,
    { skip: qemu[version].absent },
    async (t) => {
      using scratch = new Scratch()
      await using guest = await ticking(scratch, version, MACHINE)
      await guest.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 12345678, 'downtime-limit': 77 })
      const before = await settings(guest)
      const socket = scratch.file('control')
      const daemon = startDaemon(['--socket', socket])
      await appears(socket)
      const args = [
        '--qmp',
        guest.monitor('other'),
        '--rate',
        '256K',
        '--socket',
        socket,
        scratch.file('saved'),
      ]
      const saving = ferry(scratch, 'save', ...args)
      while ((await migrationStatus(guest)) !== 'active') await pace(10)
      daemon.child.kill('SIGKILL')
      await daemon.ended
      t.match(await saving, { status: 1 })
      await runsOn(t, guest, before)
      t.notOk(existsSync(scratch.file('saved')))
    },
  )
}

/** What an unfinished save would leave. */
function parts(folder: string): string[] {
  return readdirSync(folder).filter((name) => name.includes('.part'))
}

interface Started extends AsyncDisposable {
  readonly process: ChildProcess
  readonly ended: Promise<unknown>
}

function started(scratch: Scratch, args: readonly string[]): Started {
  const env = { ...process.env, TMPDIR: scratch.path }
  const child = spawn(process.execPath, [command, ...args], { stdio: 'ignore', env })
  const ended = once(child, 'exit')
  return {
    process: child,
    ended,
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL')
      await ended
    },
  }
}
