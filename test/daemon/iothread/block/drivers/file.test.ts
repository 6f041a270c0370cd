// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process'
import {
  closeSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { newSeed, random, refused, testGraph } from '../../../../helpers/graph.js'

const KiB = 1024
const MiB = 1 << 20

function image(dir: string, bytes: number): string {
  const file = path.join(dir, 'a.img')
  writeFileSync(file, Buffer.alloc(bytes, 0x5a))
  return file
}

t.test('what cannot be opened is refused with the reference texts', async (t) => {
  const g = testGraph(t)
  const dir = t.testdir({})
  const file = image(dir, MiB)
  const fifo = path.join(dir, 'fifo')
  execFileSync('mkfifo', [fifo])
  const cases: [object, string][] = [
    [{ filename: `${dir}/missing` }, `Could not open '${dir}/missing': No such file or directory`],
    [{ filename: dir }, `Could not open '${dir}': Is a directory`],
    [{ filename: dir, 'read-only': true }, `'file' driver requires '${dir}' to be a regular file`],
    [{ filename: '' }, "The 'file' block driver requires a file name"],
    [{ filename: fifo }, `'file' driver requires '${fifo}' to be a regular file`],
    [{ filename: '/dev/null' }, "'file' driver requires '/dev/null' to be a regular file"],
    [
      { filename: file, aio: 'native' },
      'aio=native was specified, but it requires cache.direct=on, which was not specified.',
    ],
    [
      { filename: file, driver: 'host_device' },
      `'host_device' driver requires '${file}' to be either a character or block device`,
    ],
    [{ filename: '', driver: 'host_device' }, "The 'host_device' block driver requires a file name"],
    [
      { filename: file, 'detect-zeroes': 'unmap' },
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    ],
    [{ filename: file, 'force-share': true }, 'force-share=on can only be used with read-only images'],
    [{ filename: file, active: false }, "Inactive nodes are not supported: 'active' of 'f' must be true"],
    [
      { filename: '/proc/version', 'read-only': true, cache: { direct: true } },
      "Could not open '/proc/version': filesystem does not support O_DIRECT",
    ],
  ]
  for (const [options, message] of cases) {
    await t.rejects(g.graph.add({ driver: 'file', 'node-name': 'f', ...options }), { message })
  }
  t.same(g.graph.nodes(), [])
  await g.graph.add({ driver: 'file', 'node-name': 'f', filename: file, active: true })
})

t.test(
  'the last sector of an odd file reads as zeroes beyond the exact end, and can be written',
  async (t) => {
    const g = testGraph(t)
    const file = image(t.testdir({}), 1000)
    const node = await g.add({ driver: 'file', 'node-name': 'f', filename: file })
    t.equal(node.length(), 1000)
    t.equal(g.reports.get('f')?.size, 1024)
    const bytes = await g.read(node, 512, 512)
    t.ok(bytes.subarray(0, 488).every((byte) => byte === 0x5a))
    t.ok(bytes.subarray(488).every((byte) => byte === 0))
    t.match(await node.status(1000, 24), { kind: 'zero', length: 24 })
    await g.write(node, 512, new Uint8Array(512).fill(1))
    t.equal(node.length(), 1024)
    t.equal(statSync(file).size, 1024)
  },
)

t.test('a file cut by somebody else fails reads instead of inventing zeroes', async (t) => {
  const g = testGraph(t)
  const file = image(t.testdir({}), MiB)
  const node = await g.add({ driver: 'file', 'node-name': 'f', filename: file })
  truncateSync(file, 4096)
  await t.rejects(g.read(node, 0, 8192), { code: 'EIO' })
})

t.test('block status shows holes, and follows writes and zeroes', async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'sparse.img')
  const handle = openSync(file, 'w')
  ftruncateSync(handle, 4 * MiB)
  for (let at = 0; at < 4 * MiB; at += 128 * KiB)
    writeSync(handle, Buffer.alloc(64 * KiB, 1), 0, 64 * KiB, at)
  closeSync(handle)
  const node = await g.add({ driver: 'file', 'node-name': 'f', filename: file, discard: 'unmap' })
  for (let at = 0; at < 4 * MiB; at += 64 * KiB) {
    const kind = at % (128 * KiB) === 0 ? 'data' : 'zero'
    t.match(await node.status(at, 16 * KiB), {
      offset: at,
      length: 16 * KiB,
      kind,
      allocated: kind === 'data',
    })
  }
  await g.write(node, 64 * KiB, new Uint8Array(4096).fill(3))
  t.match(await node.status(64 * KiB, 64 * KiB), { kind: 'data' })
  await node.zero(0, 64 * KiB, { unmap: true, fast: false })
  t.match(await node.status(0, 64 * KiB), { kind: 'zero', length: 64 * KiB })
})

t.test('resize grows with zeroes and shrinks', async (t) => {
  const g = testGraph(t)
  const file = image(t.testdir({}), 64 * KiB)
  const node = await g.add({ driver: 'file', 'node-name': 'f', filename: file })
  t.equal((await node.status(0, 4096)).kind, 'data')
  await g.graph.resize('f', MiB)
  t.match(await node.status(64 * KiB, MiB - 64 * KiB), { kind: 'zero', length: MiB - 64 * KiB })
  await g.graph.resize('f', 4097)
  t.equal(statSync(file).size, 4097)
  t.equal(g.reports.get('f')?.size, 4608)
})

t.test('auto-read-only falls back to reading where writing is not allowed', async (t) => {
  const g = testGraph(t)
  // Refused for root as well.
  const filename = '/proc/sys/kernel/osrelease'
  const spec = { driver: 'file', 'node-name': 'f', filename }
  await t.rejects(g.graph.add(spec), { message: `Could not open '${filename}': Permission denied` })
  t.ok((await g.add({ ...spec, 'auto-read-only': true })).readOnly)
})

for (const aio of ['threads', 'io_uring'] as const) {
  for (const direct of [false, true]) {
    t.test(
      `random requests through raw equal a model: ${aio}, direct ${direct}`,
      { skip: refused(aio) },
      async (t) => {
        const seed = newSeed()
        t.comment(`seed ${seed}`)
        const next = random(seed)
        const g = testGraph(t, aio)
        const size = 512 * KiB
        const base = 12 * KiB
        const file = image(t.testdir({}), 2 * size)
        const whole = readFileSync(file)
        const model = whole.subarray(base, base + size)
        const node = await g.add({
          driver: 'raw',
          'node-name': 'r',
          offset: base,
          size,
          discard: 'unmap',
          cache: { direct },
          file: { driver: 'file', 'node-name': 'f', filename: file },
        })
        for (let step = 0; step < 300; step++) {
          const offset = next(size)
          const length = 1 + next(Math.min(40_000, size - offset))
          const kind = next(6)
          if (kind < 2) {
            const bytes = new Uint8Array(length).fill(1 + next(255))
            await g.write(node, offset, bytes)
            model.set(bytes, offset)
          } else if (kind === 2) {
            await node.zero(offset, length, { unmap: next(2) === 0, fast: false })
            model.fill(0, offset, offset + length)
          } else if (kind === 3) {
            const extent = await node.status(offset, length)
            const truth = model.subarray(extent.offset, extent.offset + extent.length)
            if (extent.offset !== offset || extent.length < 1 || extent.length > length)
              t.fail(`step ${step}: range`)
            if (extent.kind === 'zero' && truth.some((byte) => byte !== 0)) t.fail(`step ${step}: false zero`)
          } else {
            const bytes = await g.read(node, offset, length)
            const same = Buffer.compare(bytes, model.subarray(offset, offset + length)) === 0
            if (!same) t.fail(`step ${step}: read of ${offset}+${length} differs`)
          }
        }
        await node.flush()
        t.ok(
          Buffer.compare(readFileSync(file), whole) === 0,
          'the file equals the model, outside the window too',
        )
      },
    )
  }
}

t.test('unaligned writes at once to one block of direct storage keep each other', async (t) => {
  const g = testGraph(t)
  const file = image(t.testdir({}), 64 * KiB)
  const node = await g.add({ driver: 'file', 'node-name': 'f', filename: file, cache: { direct: true } })
  const slots = g.engine.takeSlots(8)
  await Promise.all(
    slots.map((slot, i) => {
      g.engine.slotBytes(slot).fill(i + 1, 0, 64)
      return node.write(i * 64, { slot, offset: 0, length: 64 })
    }),
  )
  g.engine.giveSlots(slots)
  const bytes = await g.read(node, 0, 512)
  t.same(
    [...bytes].filter((_, i) => i % 64 === 13),
    [1, 2, 3, 4, 5, 6, 7, 8],
  )
})
