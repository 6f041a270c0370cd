// SPDX-License-Identifier: Apache-2.0
// Persistent bitmaps: what is written here is what QEMU's tools would have written, and a crash leaves none that lies.

import { closeSync, copyFileSync, openSync, writeSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { mustQemuImg, oracle, qemuImg, qemuIo } from '../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { storedBitmaps } from '../../../../../helpers/stored-bitmaps.js'

const KiB = 1024
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'

/** Two images alike: one for us, one for qemu-io. */
function twins(t: Test, ...bitmaps: string[][]): [string, string] {
  const folder = t.testdir({})
  const [ours, theirs] = [path.join(folder, 'ours.qcow2'), path.join(folder, 'theirs.qcow2')]
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', ours, '8M')
  for (const options of bitmaps) mustQemuImg('bitmap', '--add', ...options.slice(1), ours, options[0] ?? '')
  copyFileSync(ours, theirs)
  return [ours, theirs]
}

t.test('writes, zeroes and discards set the bits that QEMU sets', { skip }, async (t) => {
  const [ours, theirs] = twins(t, ['small', '-g', '512'], ['large', '-g', '64k'], ['off', '--disable'])
  const g = testGraph(t)
  for (const round of [0, 1]) {
    const node = await openImage(g, ours)
    const base = round * 4096 * KiB
    await g.write(node, base + 512, new Uint8Array(1024).fill(1))
    await g.write(node, base + 100 * KiB, new Uint8Array(64 * KiB).fill(2))
    await node.zero(base + 1024 * KiB, 300 * KiB, { unmap: true, fast: false })
    await node.discard(base + 2048 * KiB, 20 * KiB)
    await g.graph.remove(node.name)
    qemuIo(
      theirs,
      `write -P 1 ${base + 512} 1k`,
      `write -P 2 ${base + 100 * KiB} 64k`,
      `write -z -u ${base + 1024 * KiB} 300k`,
      `discard ${base + 2048 * KiB} 20k`,
    )
    t.same(storedBitmaps(ours), storedBitmaps(theirs), `round ${round}`)
    t.match(oracle(ours), { corruptions: 0, leaks: 0, checkErrors: 0 })
  }
  t.same(storedBitmaps(ours).off?.bits, [], 'the disabled one has none')
  mustQemuImg('bitmap', '--merge', 'small', ours, 'off')
})

t.test('while an image is written its bitmaps are marked in use', { skip }, async (t) => {
  const [ours] = twins(t, ['b'], ['off', '--disable'])
  const g = testGraph(t)
  const node = await openImage(g, ours)
  await g.read(node, 0, 4096)
  t.equal(storedBitmaps(ours).b?.inUse, false, 'not by reading')
  await g.write(node, 0, new Uint8Array(4096).fill(1))
  t.match(storedBitmaps(ours), { b: { inUse: true }, off: { inUse: false } })
  const crashed = `${ours}.crashed`
  copyFileSync(ours, crashed)
  t.match(qemuImg('bitmap', '--merge', 'b', crashed, 'off').stderr, /inconsistent/)
  await g.graph.remove(node.name)
  t.match(storedBitmaps(ours), { b: { inUse: false, bits: [0] } })
  const again = await openImage(g, crashed)
  await g.write(again, 65536, new Uint8Array(4096).fill(1))
  await g.graph.remove(again.name)
  t.match(storedBitmaps(crashed), { b: { inUse: true, auto: true } }, 'and stays so when it was not saved')
})

t.test('an image without the autoclear bit has no bitmaps, and gets no new ones', { skip }, async (t) => {
  const [ours] = twins(t, ['b'])
  const g = testGraph(t)
  const node = await openImage(g, ours)
  t.match(g.reports.get(node.name)?.format?.bitmaps, [
    { name: 'b', granularity: 4096, inUse: false, auto: true },
  ])
  await g.graph.remove(node.name)
  const file = openSync(ours, 'r+')
  writeSync(file, Buffer.alloc(8), 0, 8, 88)
  closeSync(file)
  const without = await openImage(g, ours)
  t.same(g.reports.get(without.name)?.format?.bitmaps, [])
  await g.write(without, 0, new Uint8Array(4096).fill(1))
  await g.graph.remove(without.name)
  t.match(storedBitmaps(ours), { b: { inUse: false, bits: [] } })
})
