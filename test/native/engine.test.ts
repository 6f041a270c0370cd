// SPDX-License-Identifier: Apache-2.0
// The verbs of both engines on a real file system.

import { spawnSync } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from '../../native/engine.js'
import { READ_ZERO } from '../../native/types.js'
import { installed } from '../helpers/program.js'
import { difference, engineFor, factsOf, get, KIB, kinds, MIB, pattern, put, takeSlot } from './kinds.js'

const EBADF = -9
const EAGAIN = -11
const EEXIST = -17
const ENOENT = -2
const EINVAL = -22

const noFifo = installed('mkfifo') ? false : 'no mkfifo'

const ranges = [
  { name: 'aligned', offset: 0, length: MIB },
  { name: 'odd offset', offset: 4097, length: 8192 },
  { name: 'odd length', offset: 8192, length: 12_345 },
  { name: 'inside one block', offset: 70, length: 9 },
  { name: 'across a block boundary', offset: 4090, length: 12 },
  { name: 'odd both ends, several windows', offset: 511, length: 900 * KIB + 3 },
]

for (const { aio, absent } of kinds) {
  t.test(aio, { skip: absent }, async (t) => {
    for (const direct of [true, false]) {
      t.test(`what is written ${direct ? 'directly' : 'through the cache'} is read back`, async (t) => {
        const engine = engineFor(t, { aio })
        const path = join(t.testdir(), 'disk.img')
        const file = await engine.open(path, { write: true, create: true, direct })
        t.equal((await factsOf(engine, file)).direct, direct)
        for (const { name, offset, length } of ranges) {
          await engine.truncate(file, 0)
          await put(engine, file, 0, pattern(2 * MIB, 3))
          await put(engine, file, offset, pattern(length, 5))
          const wanted = pattern(2 * MIB, 3)
          wanted.set(pattern(length, 5), offset)
          t.equal(difference(await get(engine, file, offset, length), pattern(length, 5)), undefined, name)
          t.equal(difference(await get(engine, file, 0, 2 * MIB), wanted), undefined, `${name}: neighbours`)
        }
      })

      t.test(
        `an odd tail written ${direct ? 'directly' : 'through the cache'} ends the file there`,
        async (t) => {
          const engine = engineFor(t, { aio })
          const file = await engine.open(join(t.testdir(), 'disk.img'), { write: true, create: true, direct })
          await put(engine, file, MIB, pattern(5000))
          t.equal((await factsOf(engine, file)).size, MIB + 5000)
          const tail = await get(engine, file, MIB + 4096, 64 * KIB)
          t.equal(difference(tail, pattern(5000).subarray(4096)), undefined, 'a read past the end is short')
          t.equal((await get(engine, file, 2 * MIB, 512)).length, 0, 'a read beyond it is empty')
        },
      )
    }

    t.test('a scanned read tells zeroes from data', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open(join(t.testdir(), 'disk.img'), {
        write: true,
        create: true,
        direct: true,
      })
      await engine.truncate(file, 2 * MIB)
      const slot = takeSlot(engine)
      t.equal(await engine.read(file, 0, MIB, slot, 0, { scan: true }), MIB + READ_ZERO)
      t.equal(await engine.read(file, 0, MIB, slot, 0), MIB)
      await put(engine, file, MIB - 1, Uint8Array.of(1))
      t.equal(await engine.read(file, 0, MIB, slot, 0, { scan: true }), MIB, 'the last byte counts')
      t.equal(await engine.read(file, MIB - 11, 10, slot, 0, { scan: true }), 10 + READ_ZERO)
    })

    t.test('a slot that was not taken is refused', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open(join(t.testdir(), 'disk.img'), { write: true, create: true })
      const slot = takeSlot(engine)
      engine.giveSlots([slot])
      t.equal(await engine.read(file, 0, 512, slot, 0), EINVAL)
      const again = takeSlot(engine)
      t.equal(await engine.read(file, 0, 512, again, engine.slotSize - 511), EINVAL, 'so is more than a slot')
      t.throws(() => engine.giveSlots([again + 1]), RangeError)
    })

    t.test('takeSlots gives each slot once and no more than there are', async (t) => {
      const engine = engineFor(t, { aio, slotSize: 64 * KIB, maxSlots: 20 })
      const slots = [...engine.takeSlots(5), ...engine.takeSlots(100)]
      t.same(
        [...slots].sort((a, b) => a - b),
        Array.from({ length: 20 }, (_, index) => index),
      )
      t.equal(engine.stats().slotsInUse, 20)
      engine.giveSlots(slots)
      t.equal(engine.stats().slotsInUse, 0)
    })

    t.test('open says why not', async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir({ there: '' }), 'there')
      t.equal(await engine.open(`${path}-not`, { write: false }), ENOENT)
      t.equal(await engine.open(path, { write: true, create: true, exclusive: true, direct: true }), EEXIST)
      t.equal(await engine.open(`${path}\0x`, { write: false }), EINVAL)
    })

    t.test('opening a FIFO without a writer does not wait', { skip: noFifo }, async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir(), 'fifo')
      spawnSync('mkfifo', [path])
      const file = await engine.open(path, { write: false, direct: true })
      t.equal((await factsOf(engine, file)).kind, 'fifo')
    })

    t.test('a descriptor of this process can be opened by name', async (t) => {
      const engine = engineFor(t, { aio })
      const fd = openSync(join(t.testdir({ disk: 'abc' }), 'disk'), 'r')
      for (const name of [`/dev/fd/${fd}`, `/proc/self/fd/${fd}`]) {
        t.equal((await factsOf(engine, await engine.open(name, { write: false }))).size, 3, name)
      }
      closeSync(fd)
    })

    t.test('facts name the file, whatever path led to it', async (t) => {
      const engine = engineFor(t, { aio })
      const folder = t.testdir({ disk: 'x' })
      symlinkSync('disk', join(folder, 'link'))
      const [disk, link, directory] = await Promise.all([
        engine.open(join(folder, 'disk'), { write: false }),
        engine.open(join(folder, 'link'), { write: false }),
        engine.open(folder, { write: false, directory: true }),
      ])
      const { device, inode, kind, requestAlign } = await factsOf(engine, disk)
      t.match(await factsOf(engine, link), { device, inode })
      t.same([kind, requestAlign], ['file', 1])
      t.equal((await factsOf(engine, directory)).kind, 'directory')
      t.equal(await engine.flush(directory, false), 0, 'a directory can be flushed')
    })

    t.test('a closed file is unknown, and close waits for what uses the file', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open(join(t.testdir(), 'disk.img'), {
        write: true,
        create: true,
        direct: true,
      })
      await engine.truncate(file, MIB)
      const slot = takeSlot(engine)
      const read = engine.read(file, 0, MIB, slot, 0)
      const closed = engine.close(file)
      t.equal(await engine.read(file, 0, MIB, slot, 0), EBADF)
      t.same(await Promise.all([read, closed]), [MIB, 0])
      t.equal(await engine.close(file), EBADF)
    })

    t.test('extents are the layout of the file', async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir(), 'disk.img')
      const file = await engine.open(path, { write: true, create: true, direct: true })
      await engine.truncate(file, 8 * MIB)
      for (const at of [1, 2, 5]) await put(engine, file, at * MIB, pattern(MIB))
      await engine.flush(file, false)
      const layout = [0, 1, 0, 1, 2, 1, 3, 2, 0, 5, 1, 1, 6, 2, 0]
      const wanted = layout.map((value, index) => (index % 3 === 2 ? value : value * MIB))
      const all = await engine.extents(file, 0, 8 * MIB, 100)
      t.same([...(all as Float64Array)], wanted)

      const steps: number[] = []
      for (let at = 0; at < 8 * MIB; ) {
        const [offset = 0, length = 0, kind = 0] = (await engine.extents(file, at, 1, 1)) as Float64Array
        steps.push(offset, length, kind)
        at = offset + length
      }
      t.same(steps, wanted, 'one extent a call gives whole extents')
      t.same(
        [...((await engine.extents(file, 8 * MIB, MIB, 9)) as Float64Array)],
        [],
        'beyond the end is nothing',
      )
    })

    t.test('an extent that was punched since the last question is not called data', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open(join(t.testdir(), 'disk.img'), { write: true, create: true })
      await engine.truncate(file, 4 * MIB)
      await put(engine, file, MIB, pattern(MIB))
      await put(engine, file, 3 * MIB, pattern(MIB))
      t.same([...((await engine.extents(file, 0, MIB, 1)) as Float64Array)], [0, MIB, 0])
      await engine.zero(file, MIB, MIB, { unmap: true, fast: false })
      t.same([...((await engine.extents(file, MIB, MIB, 1)) as Float64Array)], [MIB, 2 * MIB, 0])
    })

    t.test('copyRange and reflink copy, or say that they cannot', async (t) => {
      const engine = engineFor(t, { aio })
      const folder = t.testdir()
      const from = await engine.open(join(folder, 'from'), { write: true, create: true })
      const to = await engine.open(join(folder, 'to'), { write: true, create: true, without: ['reflink'] })
      await put(engine, from, 0, pattern(64 * KIB))
      const copied = await engine.copyRange(from, 4096, to, 0, 8192)
      t.equal(copied, 8192)
      t.equal(difference(await get(engine, to, 0, 8192), pattern(64 * KIB).subarray(4096, 12_288)), undefined)
      t.ok((await engine.reflink(from, 0, to, 0, 64 * KIB)) <= 0)
    })

    t.test('locks of two handles exclude each other', async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir(), 'disk.img')
      const [one, other] = await Promise.all([
        engine.open(path, { write: true, create: true }),
        engine.open(path, { write: true, create: true }),
      ])
      t.equal(await engine.lock(one, 'read', 100, 1), 0)
      t.equal(await engine.lock(other, 'read', 100, 1), 0, 'readers share')
      t.equal(await engine.lock(other, 'write', 100, 1), EAGAIN)
      t.equal(await engine.lockedByOthers(other, 100, 1), 1)
      t.equal(await engine.lockedByOthers(other, 101, 1), 0)
      t.equal(await engine.lock(one, 'unlock', 100, 1), 0)
      t.equal(await engine.lock(other, 'write', 100, 1), 0)
      await engine.close(other)
      t.equal(await engine.lockedByOthers(one, 100, 1), 0, 'a closed handle holds nothing')
    })

    t.test('allocate reserves storage and changes neither contents nor size', async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir({ a: 'contents' }), 'a')
      const file = await engine.open(path, { write: true })
      t.equal(await engine.allocate(file, 0, 65536), 0)
      t.equal(await engine.allocate(file, 1048576, 65536), 0)
      t.match(await factsOf(engine, file), { size: 8 })
      t.ok((await factsOf(engine, file)).allocated >= 131072)
      t.equal(readFileSync(path, 'utf8'), 'contents')
      t.equal(await engine.allocate(file, 0, 0), -22)
    })

    for (const without of [[], ['fallocate']] as const)
      t.test(
        `grow makes a file longer and never shorter ${without.length > 0 ? 'by truncating' : ''}`,
        async (t) => {
          const engine = engineFor(t, { aio })
          const path = join(t.testdir(), 'disk.img')
          const file = await engine.open(path, { write: true, create: true, direct: true, without })
          t.equal(await engine.grow(file, 9000, 1000), 10_000)
          t.equal((await factsOf(engine, file)).size, 10_000)
          t.equal(difference(await get(engine, file, 0, MIB), new Uint8Array(10_000)), undefined)
          await put(engine, file, 0, pattern(MIB))
          t.equal(await engine.grow(file, 0, 10), MIB)
          t.equal(difference(await get(engine, file, 0, 2 * MIB), pattern(MIB)), undefined)
          t.equal(await engine.grow(file, MIB, 3), MIB + 3)
          t.equal(difference(await get(engine, file, 0, MIB), pattern(MIB)), undefined)
        },
      )

    t.test('two who grow one file do not cut what the other wrote', async (t) => {
      const path = join(t.testdir(), 'disk.img')
      writeFileSync(path, '')
      const ends = await Promise.all(
        [0, 1].map(async () => {
          const engine = engineFor(t, { aio })
          return { engine, file: await engine.open(path, { write: true }) }
        }),
      )
      const steps = 400
      await Promise.all(
        ends.map(async ({ engine, file }, which) => {
          for (let step = which; step < steps; step += 2) {
            await engine.grow(file, step * KIB, KIB)
            await put(engine, file, step * KIB, pattern(KIB, step))
          }
        }),
      )
      const content = readFileSync(path)
      const wanted = Buffer.concat(Array.from({ length: steps }, (_, step) => pattern(KIB, step)))
      t.equal(difference(content, wanted), undefined)
    })

    t.test('truncate with allocate reserves storage', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open(join(t.testdir(), 'disk.img'), { write: true, create: true })
      t.equal(await engine.truncate(file, 3 * MIB + 5, true), 0)
      const { size, allocated } = await factsOf(engine, file)
      t.equal(size, 3 * MIB + 5)
      t.ok(allocated >= size)
      t.equal(await engine.truncate(file, 10), 0)
      t.equal((await factsOf(engine, file)).size, 10)
    })

    t.test('rename takes the place of what had the name', async (t) => {
      const engine = engineFor(t, { aio })
      const folder = t.testdir({ a: 'new', b: 'old' })
      t.equal(await engine.rename(`${folder}/a`, `${folder}/b`), 0)
      t.equal(readFileSync(`${folder}/b`, 'utf8'), 'new')
      t.equal(await engine.rename(`${folder}/a`, `${folder}/b`), ENOENT)
      t.equal(await engine.rename(`${folder}/b`, `${folder}/c\0d`), -22, 'a name with a NUL is not cut there')
      t.equal(readFileSync(`${folder}/b`, 'utf8'), 'new')
    })

    t.test('unlink removes a name and not an open file', async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir(), 'disk.img')
      const file = await engine.open(path, { write: true, create: true })
      t.equal(await engine.unlink(path), 0)
      t.equal(await engine.unlink(path), ENOENT)
      t.equal((await factsOf(engine, file)).size, 0)
    })

    t.test('never more requests or bytes in flight than allowed, and all are done', async (t) => {
      const engine = engineFor(t, { aio, maxRequests: 4, maxBytes: 3 * 64 * KIB, slotSize: 64 * KIB })
      const file = await engine.open(join(t.testdir(), 'disk.img'), {
        write: true,
        create: true,
        direct: true,
      })
      await put(engine, file, 0, pattern(2 * MIB))
      const slots = engine.takeSlots(32)
      let most = 0
      const results = await Promise.all(
        slots.map(async (slot, index) => {
          const result = await engine.read(file, index * 64 * KIB, 64 * KIB, slot, 0)
          most = Math.max(most, engine.stats().bytes)
          return result
        }),
      )
      t.ok(results.every((result) => result === 64 * KIB))
      t.ok(most <= 3 * 64 * KIB, `${most} bytes at most`)
      const wanted = pattern(2 * MIB)
      for (const [index, slot] of slots.entries()) {
        const part = wanted.subarray(index * 64 * KIB, (index + 1) * 64 * KIB)
        t.equal(difference(engine.slotBytes(slot), part), undefined, `slot ${slot}`)
      }
    })

    t.test('shutdown closes files and refuses what comes after', async (t) => {
      const engine = createEngine({ aio })
      const file = await engine.open(join(t.testdir(), 'disk.img'), { write: true, create: true })
      const flushed = engine.flush(file, false)
      t.equal(await engine.shutdown(10_000), 0)
      t.equal(await flushed, 0, 'what was in flight is finished')
      t.equal(await engine.stat(file), -125)
      t.equal(await engine.open('/', { write: false }), -125)
      t.same(engine.takeSlots(1), [])
    })
  })
}

t.test('under auto something works', async (t) => {
  const engine = engineFor(t, { aio: 'auto' })
  const folder = t.testdir()
  mkdirSync(join(folder, 'deep'))
  writeFileSync(join(folder, 'deep', 'disk.img'), '')
  truncateSync(join(folder, 'deep', 'disk.img'), 4096)
  const file = await engine.open(join(folder, 'deep', 'disk.img'), { write: false, direct: true })
  t.equal((await get(engine, file, 0, 8192)).length, 4096)
})

t.test('a slot size that is not a multiple of 4096 is refused', async (t) => {
  t.throws(() => createEngine({ aio: 'threads', slotSize: 1000 }), RangeError)
})
