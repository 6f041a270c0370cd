// SPDX-License-Identifier: Apache-2.0
// blockferryd is killed while it commits and streams below a guest that writes: the chain on the disk opens, its images are
// whole but for leaks, and everything that was flushed is there. Prints its seed; SEED=n repeats it.

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { oracle, qemuImg } from '../helpers/check-image.js'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random } from '../helpers/graph.js'
import { GuestClient } from '../helpers/nbd/guest-client.js'
import { installed } from '../helpers/program.js'
import { Scratch } from '../helpers/scratch.js'
import { deadline, pace } from '../helpers/waiting.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'
const KILLS = Number(process.env.CRASH_ROUNDS ?? 1) * 6
const BLOCK = 4096
const BLOCKS = 4096
const NAMES = ['base', 'low', 'high', 'top'] as const

function qemuIo(path: string, commands: string[]): void {
  execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path])
}

/** A guest whose blocks carry versions, and what it knows of them. */
class Writer {
  /** By block: the versions that may be found, the oldest first. */
  readonly possible = new Map<number, number[]>()
  readonly #guest: GuestClient
  readonly #below: (below: number) => number
  #version = 1000

  constructor(guest: GuestClient, below: (below: number) => number) {
    this.#guest = guest
    this.#below = below
  }

  /** Until the connection is lost. */
  async run(): Promise<void> {
    try {
      for (;;) {
        for (let left = 1 + this.#below(20); left > 0; left--) await this.#write()
        await this.#guest.flush()
        for (const [block, versions] of this.possible) this.possible.set(block, versions.slice(-1))
      }
    } catch {
      return
    }
  }

  async #write(): Promise<void> {
    const block = this.#below(BLOCKS)
    const version = ++this.#version
    // Not written in this run yet: what was there before may be found too.
    this.possible.set(block, [...(this.possible.get(block) ?? [0]), version])
    const bytes = Buffer.alloc(BLOCK)
    for (let at = 0; at < BLOCK; at += 4) bytes.writeUInt32LE(version, at)
    await this.#guest.write(block * BLOCK, bytes)
  }

  /** What is neither what was there before nor what may be there now. */
  lies(before: Buffer, now: Buffer): string[] {
    const lies: string[] = []
    for (let block = 0; block < BLOCKS; block++) {
      const versions = this.possible.get(block) ?? [0]
      const [old, found] = [before, now].map((disk) => disk.subarray(block * BLOCK, (block + 1) * BLOCK))
      if (old === undefined || found === undefined) continue
      if (versions.includes(0) && found.equals(old)) continue
      const version = found.readUInt32LE(0)
      const torn = versions.length > 1
      if (!versions.includes(version) && !torn) lies.push(`block ${block}: ${version}, not ${versions}`)
    }
    return lies
  }
}

/** The tasks of a killed daemon's engine end a moment after it, and their locks with them. */
async function unlocked(image: string): Promise<void> {
  using clock = deadline(10_000)
  while (/lock/.test(qemuImg('info', image).stderr)) {
    if (clock.over) throw new Error(`'${image}' is locked still`)
    await pace(20)
  }
}

const jobs = [
  { name: 'inner commit', command: 'block-commit', more: (path: string) => ({ top: join(path, 'high') }) },
  { name: 'commit of one', command: 'block-commit', more: (path: string) => ({ top: join(path, 'low') }) },
  { name: 'active commit', command: 'block-commit', more: () => ({}) },
  { name: 'stream', command: 'block-stream', more: () => ({}) },
  { name: 'stream to base', command: 'block-stream', more: (path: string) => ({ base: join(path, 'base') }) },
] as const

t.test('a killed daemon leaves a chain that holds what was flushed', { skip }, async (t) => {
  t.setTimeout((KILLS + 5) * 30_000)
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const below = random(seed)
  for (let kill = 0; kill < KILLS; kill++) {
    using scratch = new Scratch()
    const path = (name: string) => join(scratch.path, name)
    for (const [index, name] of NAMES.entries()) {
      const backing = index === 0 ? [] : ['-b', NAMES[index - 1] ?? '', '-F', 'qcow2']
      qemuImg('create', '-q', '-f', 'qcow2', ...backing, path(name), '16M')
      const writes = Array.from(
        { length: 24 },
        () => `write -q -P ${1 + below(255)} ${below(200) * 64}k 128k`,
      )
      qemuIo(path(name), writes)
    }
    qemuImg('convert', '-O', 'raw', path('top'), path('before'))
    const job = jobs[below(jobs.length)] ?? jobs[0]
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    const file = { driver: 'file', filename: path('top') }
    await client.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'top', file, discard: 'unmap' })
    await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: path('nbd') } } })
    const serve = { type: 'nbd', id: 'e', 'node-name': 'top', name: 'x', writable: true }
    await client.execute('block-export-add', serve)
    const writer = new Writer(await GuestClient.connect(path('nbd'), 'x'), below)
    const writing = writer.run()
    // Sometimes it is over before it is killed.
    const speed = below(3) === 0 ? 0 : 8 << 20
    await client.execute(job.command, { 'job-id': 'j', device: 'top', speed, ...job.more(scratch.path) })
    await pace(below(600))
    daemon.running.child.kill('SIGKILL')
    t.equal(await daemon.running.ended(10_000), -9)
    await writing
    for (const name of NAMES) await unlocked(path(name))
    for (const name of NAMES) t.match(oracle(path(name)), { corruptions: 0, checkErrors: 0 }, name)
    const { status, stderr } = qemuImg('convert', '-O', 'raw', path('top'), path('after'))
    t.equal(status, 0, stderr)
    const lies = writer.lies(readFileSync(path('before')), readFileSync(path('after')))
    t.same(lies.slice(0, 5), [], `${job.name}: ${writer.possible.size} blocks written`)
  }
})
