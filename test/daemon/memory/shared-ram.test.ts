// SPDX-License-Identifier: Apache-2.0
// Memory in files on file systems that can share storage: nothing of it is written once more.

import { randomBytes } from 'node:crypto'
import { closeSync, fsyncSync, openSync, readFileSync, statfsSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { fileSystemAbsent, MountedImage } from '../../helpers/loop.js'
import { nameOf, streamNamed, unpack } from '../../helpers/migration/fixtures.js'
import { Replay } from '../../helpers/migration/replay.js'
import { Scratch } from '../../helpers/scratch.js'
import { fileSink, spec, Worker } from './worker.js'

const MIB = 2 ** 20
const NAME = 'q10-pc-q35-10.0-stopped-ignore-shared.stream'
const DATA = 8 * MIB

for (const { kind, shares } of [
  { kind: 'xfs', shares: true },
  { kind: 'btrfs', shares: true },
  { kind: 'ext4', shares: false },
] as const) {
  t.test(
    `${kind}: ${shares ? 'storage of memory is shared' : 'memory is copied'}`,
    {
      skip: fileSystemAbsent(kind),
    },
    async (t) => {
      using scratch = new Scratch()
      using mounted = MountedImage.make(scratch.path, kind, 512 * MIB)
      const at = (name: string) => join(mounted.path, name)
      writeFileSync(at('in.stream'), unpack(NAME))
      const memory = unpack(nameOf(streamNamed(NAME).ram_image ?? ''))
      const file = openSync(at('ram'), 'w')
      writeSync(file, memory.subarray(0, MIB), 0, MIB, 0)
      writeSync(file, randomBytes(DATA), 0, DATA, 4 * MIB)
      writeSync(file, memory.subarray(-MIB), 0, MIB, memory.length - MIB)
      fsyncSync(file)
      closeSync(file)
      const before = statfsSync(mounted.path)
      const worker = new Worker(t)
      const place = (name: string) => ({ kind: 'path', path: at(name) }) as const
      const source = { kind: 'file', file: place('in.stream'), offset: 0, direct: true } as const
      const error = await worker.run(
        spec(source, fileSink(at('out'), 'mapped-ram'), {
          shared: [{ block: 'mem0', file: place('ram') }],
          renames: [{ from: 'mem0', to: 'pc.ram' }],
        }),
      )
      t.equal(error, undefined)
      const after = statfsSync(mounted.path)
      const taken = (before.bfree - after.bfree) * after.bsize
      if (shares) t.ok(taken < DATA / 2, `${taken} bytes of storage were taken`)
      else t.ok(taken >= DATA, `${taken} bytes of storage were taken`)
      const written = new Replay(readFileSync(at('out'))).blocks.find(({ name }) => name === 'pc.ram')
      t.ok(written?.memory.equals(readFileSync(at('ram'))))
    },
  )
}
