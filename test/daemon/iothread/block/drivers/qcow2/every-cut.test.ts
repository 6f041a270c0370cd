// SPDX-License-Identifier: Apache-2.0
// The power is cut at every write of short recordings, and of what was not flushed then each part is lost or kept, or is
// there in some of its sectors: the image is whole but for leaks, what was flushed is there, and what was not is old or
// new. ONLY=words chooses recordings.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { createQcow2 } from '../../../../../../daemon/iothread/block/drivers/qcow2/create.js'
import type { Qcow2Options } from '../../../../../../daemon/iothread/messages.js'
import { mustQemuImg, qemuIo } from '../../../../../helpers/check-image.js'
import { DiskBytes } from '../../../../../helpers/power-cut/disk-bytes.js'
import { everyCut } from '../../../../../helpers/power-cut/every-cut.js'
import type { GuestEvent } from '../../../../../helpers/power-cut/guest-model.js'
import { Lab } from '../../../../../helpers/power-cut/lab.js'
import { RecordedDisk, type Recording } from '../../../../../helpers/power-cut/recorded-disk.js'
import { ScriptedImage, type ScriptedKind } from '../../../../../helpers/power-cut/scripted-image.js'
import { installed } from '../../../../../helpers/program.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'
const ONLY = process.env.ONLY ?? ''

t.setTimeout(240_000)

/** Few slices, so that room for others is made by writing some. */
const TINY = { 'l2-cache-entry-size': 512, 'l2-cache-size': 1024, 'refcount-cache-size': 1024 }

/** A writer of QEMU's that ended in the middle: what it wrote has no counts. */
function leftDirty(file: string): void {
  const commands = ['-c', 'write -P 0 100k 12k', '-c', 'flush', '-c', 'abort']
  const { signal } = spawnSync('qemu-io', ['-f', 'qcow2', ...commands, file])
  if (signal === null) throw new Error('qemu-io has not been aborted')
  if ((readFileSync(file)[79]! & 1) === 0) throw new Error('the image is not dirty')
}

const kinds: readonly ScriptedKind[] = [
  {
    name: 'writes that allocate, and writes in place',
    options: 'cluster_size=4k',
    size: 1024,
    steps: [
      ['write', 0, 8],
      ['write', 11, 3],
      ['flush'],
      ['write', 12, 2],
      ['write', 100, 30],
      ['flush'],
      ['together', ['write', 200, 8], ['write', 208, 8], ['write', 305, 4]],
    ],
  },
  {
    name: 'overwriting what a snapshot shows',
    options: 'cluster_size=4k',
    size: 256,
    before: [['write', 0, 100]],
    snapshot: true,
    steps: [['write', 3, 2], ['flush'], ['write', 40, 20], ['zero', 64, 8], ['discard', 72, 8]],
  },
  {
    name: 'zeroes',
    options: 'cluster_size=4k',
    size: 256,
    before: [['write', 0, 100]],
    steps: [
      ['zero', 8, 8],
      ['unmap', 16, 16],
      ['zero', 43, 10],
      ['flush'],
      ['zero', 120, 16],
      ['write', 8, 8],
    ],
  },
  {
    name: 'discards, and their places used again',
    options: 'cluster_size=4k',
    size: 256,
    before: [['write', 0, 100]],
    steps: [['discard', 8, 16], ['flush'], ['write', 120, 16], ['discard', 40, 30], ['write', 40, 8]],
  },
  {
    name: 'a disk that grows past its L1 table',
    options: 'cluster_size=512',
    size: 512,
    before: [['write', 0, 10]],
    steps: [['resize', 5000], ['write', 4990, 8], ['flush'], ['resize', 5001]],
  },
  {
    name: 'a disk that shrinks, and grows again',
    options: 'cluster_size=512',
    size: 512,
    before: [
      ['write', 0, 30],
      ['write', 250, 20],
      ['write', 480, 32],
    ],
    steps: [['resize', 261], ['flush'], ['resize', 300], ['write', 255, 10]],
  },
  {
    name: 'a disk over a backing file that grows',
    options: 'cluster_size=4k',
    size: 200,
    backing: 400,
    steps: [
      ['write', 190, 10],
      ['resize', 410],
      ['write', 300, 3],
    ],
  },
  {
    name: 'a disk that grows with places for all of it',
    options: 'cluster_size=512',
    size: 512,
    before: [['write', 0, 10]],
    steps: [
      ['resize', 5000, 'metadata'],
      ['write', 4990, 8],
      ['resize', 5200, 'full'],
    ],
  },
  {
    name: 'a disk over a backing file that grows with places for all of it',
    options: 'cluster_size=4k',
    size: 200,
    backing: 400,
    steps: [
      ['write', 190, 10],
      ['resize', 300, 'metadata'],
      ['resize', 410, 'falloc'],
      ['write', 300, 3],
    ],
  },
  {
    name: 'a disk of subclusters that grows with places for all of it',
    options: 'cluster_size=16k,extended_l2=on',
    size: 256,
    backing: 300,
    before: [['write', 64, 40]],
    steps: [['resize', 520, 'full'], ['write', 300, 9], ['flush'], ['resize', 256]],
  },
  {
    name: 'a data file that grows with places for all of it',
    options: 'cluster_size=4k',
    dataFile: true,
    size: 256,
    before: [['write', 0, 40]],
    steps: [
      ['resize', 300, 'metadata'],
      ['write', 290, 8],
      ['resize', 340, 'full'],
    ],
  },
  {
    name: 'compressed clusters',
    options: 'cluster_size=4k,compression_type=zstd',
    size: 256,
    before: [['packed', 0, 32]],
    steps: [
      ['packed', 64, 24],
      ['flush'],
      ['packed', 8, 8],
      ['write', 16, 8],
      ['packed', 64, 8],
      ['write', 73, 2],
    ],
  },
  {
    name: 'subclusters over a backing file',
    options: 'cluster_size=16k,extended_l2=on',
    size: 256,
    backing: 256,
    before: [['write', 64, 40]],
    steps: [
      ['write', 3, 2],
      ['write', 7, 1],
      ['flush'],
      ['zero', 65, 5],
      ['discard', 96, 32],
      ['write', 64, 2],
    ],
  },
  {
    name: 'an image that lets counts lag behind',
    options: 'cluster_size=4k,lazy_refcounts=on',
    size: 256,
    before: [['write', 0, 40]],
    steps: [['write', 64, 9], ['flush'], ['discard', 0, 16], ['write', 130, 3]],
  },
  {
    name: 'an image that a writer left with counts behind',
    options: 'cluster_size=4k,lazy_refcounts=on',
    size: 256,
    before: [['write', 0, 40]],
    change: leftDirty,
    steps: [['write', 128, 9], ['flush'], ['discard', 0, 16], ['write', 200, 3]],
  },
  {
    name: 'a data file',
    options: 'cluster_size=4k',
    dataFile: true,
    size: 256,
    before: [['write', 0, 40]],
    steps: [
      ['write', 64, 9],
      ['flush'],
      ['unmap', 8, 8],
      ['zero', 16, 8],
      ['discard', 24, 8],
      ['write', 8, 3],
      ['resize', 300],
    ],
  },
  {
    name: 'a raw data file',
    options: 'cluster_size=4k,data_file_raw=on',
    dataFile: true,
    size: 256,
    before: [['write', 0, 40]],
    steps: [
      ['write', 64, 9],
      ['flush'],
      ['unmap', 8, 8],
      ['discard', 24, 8],
      ['write', 8, 3],
      ['resize', 300],
    ],
  },
  {
    name: 'refcounts of one bit',
    options: 'cluster_size=1k,refcount_bits=1',
    size: 256,
    before: [['write', 0, 60]],
    steps: [
      ['write', 100, 12],
      ['flush'],
      ['discard', 10, 20],
      ['write', 200, 4],
      ['flush'],
      ['write', 10, 6],
    ],
  },
  {
    name: 'refcounts of 64 bits, whose blocks fill fast',
    options: 'cluster_size=512,refcount_bits=64',
    size: 512,
    runtime: TINY,
    before: [['write', 0, 40]],
    steps: [['write', 100, 60], ['flush'], ['discard', 110, 6], ['write', 300, 2]],
  },
  {
    name: 'a refcount table that grows',
    options: 'cluster_size=512,refcount_bits=64',
    size: 4096,
    before: [
      ['write', 0, 2048],
      ['write', 2048, 1800],
    ],
    steps: [['write', 3900, 100], ['flush'], ['write', 4000, 20]],
  },
  {
    name: 'tables that do not fit into the caches',
    options: 'cluster_size=512',
    size: 512,
    runtime: TINY,
    before: [['write', 0, 100]],
    steps: [['write', 150, 2], ['write', 250, 2], ['write', 350, 2], ['flush'], ['discard', 3, 4]],
  },
]

for (const kind of kinds.filter(({ name }) => name.includes(ONLY))) {
  t.test(
    `every power cut leaves at most leaks and loses nothing flushed: ${kind.name}`,
    { skip },
    async (t) => {
      const lab = new Lab(t)
      const image = new ScriptedImage(lab, t.testdir({}), kind)
      await image.prepare()
      const { cuts, different, fault } = await image.try()
      t.equal(fault, undefined)
      t.comment(`${cuts} cuts, ${different} different`)
    },
  )
}

t.test('a new image is there whole or not at all, in the place of an old one', { skip }, async (t) => {
  const lab = new Lab(t)
  const old = path.join(t.testdir({}), 'old')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', old, '64k')
  qemuIo(old, 'write -P 1 0 64k')
  const initial = new DiskBytes(readFileSync(old), false)
  const before = await lab.content(await lab.open(lab.disks([initial.copy()], undefined), true))
  const recording: Recording = { log: [], below: () => 0, requests: 0, fault: 0 }
  const file = lab.node('file', new RecordedDisk(lab.engine, initial.copy(), 0, recording), false)
  const slots = {
    slotSize: lab.engine.slotSize,
    acquire: async () => lab.slots[1] ?? 0,
    give: () => undefined,
    bytes: (slot: number) => lab.engine.slotBytes(slot),
  }
  const options: Qcow2Options = {
    ...{ size: 100 * 4096, version: 3, clusterSize: 4096, refcountBits: 16, extendedL2: false },
    ...{ lazyRefcounts: false, compression: 'zstd', preallocation: 'metadata', dataFileRaw: false },
    ...{ backingFile: undefined, backingFormat: undefined, dataFileName: undefined },
  }
  await createQcow2({ file, dataFile: undefined, options, slots, signal: new AbortController().signal })
  const made: GuestEvent = { kind: 'guest flushed', flush: {} }
  recording.log.push(made)
  const none = Buffer.from('none')
  const empty = Buffer.alloc(options.size)
  let done = false
  const { cuts, different, fault } = await everyCut({
    ...{ recording, initial: [initial] },
    expected: {
      step: (event) => {
        done ||= event === made
      },
      fault: (content) => {
        const allowed = done ? [empty] : [before, none, empty]
        return allowed.some((one) => one.equals(content)) ? undefined : 'neither the old nor the new image'
      },
    },
    judge: async (cut) => {
      const disks = lab.disks(cut, undefined)
      const start = cut[0]?.bytes.subarray(0, 4).toString('latin1')
      if (start !== 'QFI\xfb') return { content: none }
      const { corruptions, checkErrors, leaks, lines } = await lab.check(disks.image)
      if (corruptions + checkErrors + leaks > 0) return { fault: lines.slice(0, 5).join('; ') }
      return { content: await lab.content(await lab.open(disks, true)) }
    },
  })
  t.equal(fault, undefined)
  t.comment(`${cuts} cuts, ${different} different`)
})
