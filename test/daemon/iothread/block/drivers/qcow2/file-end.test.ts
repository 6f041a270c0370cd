// SPDX-License-Identifier: Apache-2.0
// Where the file of an image ends when its last user has left: behind what is used of it, and never within what its counts do
// not know of.

import { statSync, truncateSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { EIO } from '../../../../../../daemon/common/errno.js'
import { IoError } from '../../../../../../daemon/errors.js'
import { mustQemuImg, oracle, qemuIo } from '../../../../../helpers/check-image.js'
import { type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { ImageFile } from '../../../../../helpers/qcow2-image.js'

const [KiB, MiB] = [2 ** 10, 2 ** 20]
const CLUSTER = 64 * KiB
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'

/** A disk of 8 MiB whose first 4 are 1, one cluster behind the other. */
function written(t: Test): string {
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '8M')
  qemuIo(file, 'write -P 1 0 4M')
  return file
}

/** Has the counts of the last clusters of the file forgotten. */
function forget(file: string, clusters: number): void {
  const image = new ImageFile(file)
  const end = Math.ceil(statSync(file).size / CLUSTER)
  for (let index = end - clusters; index < end; index++) image.setRefcount(index, 0)
  image.save()
}

async function using(g: TestGraph, file: string, work: (name: string) => Promise<unknown>): Promise<void> {
  const node = await openImage(g, file)
  await work(node.name)
  await g.graph.remove(node.name)
}

t.test('data that no count knows of stay in the file, and are there after a repair', { skip }, async (t) => {
  const file = written(t)
  forget(file, 32)
  const { size } = statSync(file)
  const g = testGraph(t)
  await using(g, file, (name) => g.write(g.graph.node(name), 0, new Uint8Array(4096).fill(2)))
  t.equal(statSync(file).size, size)
  mustQemuImg('check', '-q', '-r', 'all', file)
  qemuIo(file, 'read -P 1 4k 4092k')
})

t.test('also when something else was freed before', { skip }, async (t) => {
  const file = written(t)
  forget(file, 32)
  const { size } = statSync(file)
  const g = testGraph(t)
  await using(g, file, async (name) => {
    const node = g.graph.node(name)
    await node.zero(0, MiB, { unmap: true, fast: false })
    await node.flush()
  })
  t.equal(statSync(file).size, size)
  mustQemuImg('check', '-q', '-r', 'all', file)
  qemuIo(file, 'read -P 1 1M 3M')
})

t.test('room that nobody ever used is cut off', { skip }, async (t) => {
  const file = written(t)
  const { size } = statSync(file)
  truncateSync(file, size + 4 * MiB)
  const g = testGraph(t)
  await using(g, file, (name) => g.write(g.graph.node(name), 0, new Uint8Array(4096).fill(2)))
  t.equal(statSync(file).size, size)
})

t.test('what was freed is cut off, also where it holds data', { skip }, async (t) => {
  const file = written(t)
  const { size } = statSync(file)
  const g = testGraph(t)
  await using(g, file, (name) => g.graph.node(name).resize(MiB))
  const { size: after } = statSync(file)
  t.ok(after <= size - 2 * MiB, `${after} of ${size} bytes`)
  t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
})

t.test(
  'where the file cannot be asked what it holds, it keeps its length and loses nothing',
  { skip },
  async (t) => {
    const file = written(t)
    truncateSync(file, statSync(file).size + 4 * MiB)
    const { size } = statSync(file)
    const g = testGraph(t)
    const node = await openImage(g, file)
    const below = g.graph.node(`${node.name}-file`)
    const { status } = below
    below.status = (offset, length) => Promise.reject(new IoError(EIO, 'status', below.name, offset, length))
    for (const [index, at] of [0, 6 * MiB].entries()) {
      const use = { use: ['consistent read', 'write', 'resize'], share: ['consistent read'] } as const
      const claim = await g.graph.claim('a test', node, use)
      await g.write(node, at, new Uint8Array(4096).fill(2))
      await claim.release()
      t.equal(g.log.filter((line) => line.includes('settle failed')).length, index + 1, 'the error is told')
      qemuIo(file, `read -P 2 ${at} 4k`)
    }
    t.ok(statSync(file).size >= size)
    t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
    below.status = status
    await g.graph.remove(node.name)
    t.ok(statSync(file).size < size, 'it is cut off when it can be')
  },
)
