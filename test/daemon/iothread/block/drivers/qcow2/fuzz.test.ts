// SPDX-License-Identifier: Apache-2.0
// Mutated images in use: opening, reading, writing and closing end with a result or a clear error, in bounded memory.
// FUZZ_SECONDS says how long (default 5, 60 where CI is set), SEED repeats a run.

import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { CommandError } from '../../../../../../daemon/errors.js'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import { mustQemuImg, qemuIo } from '../../../../../helpers/check-image.js'
import { newSeed, random, type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { mutate } from '../../../../../helpers/mutate.js'
import { openImage, readAll, refusedByDisk } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { smallImage } from '../../../../../helpers/qcow2-image.js'

const KiB = 1024
const MiB = 1024 * KiB
/** Nothing here asks whether the disk keeps its promise. */
const cache = { 'no-flush': true }
const seconds = Number(process.env.FUZZ_SECONDS ?? (process.env.CI === undefined ? 5 : 60))
type Random = ReturnType<typeof random>

/** Images worth hurting: with snapshots, bitmaps, compressed and extended clusters, where QEMU's tools are installed. */
function images(folder: string): Buffer[] {
  const list: Buffer[] = [smallImage()]
  if (!installed('qemu-img') || !installed('qemu-io')) return list
  for (const options of [
    'cluster_size=4k',
    'cluster_size=16k,extended_l2=on',
    'compat=0.10,cluster_size=512',
  ]) {
    const file = path.join(folder, `rich${list.length}.qcow2`)
    mustQemuImg('create', '-q', '-f', 'qcow2', '-o', options, file, '1M')
    qemuIo(file, 'write -P 1 0 20k', 'write -z 64k 16k')
    mustQemuImg('snapshot', '-c', 'one', file)
    if (!options.startsWith('compat')) mustQemuImg('bitmap', '--add', '-g', '512', file, 'b0')
    qemuIo(file, 'write -P 2 4k 8k', 'write -c -P 3 512k 16k')
    list.push(readFileSync(file))
  }
  return list
}

/** Some of everything; what the disk refuses is refused. */
async function change(g: TestGraph, node: BlockNode, draw: Random): Promise<void> {
  const room = Math.min(node.length(), MiB)
  for (let round = 0; round < 8; round++) {
    const offset = draw(Math.max(1, room / 512)) * 512
    const length = Math.min(512 * (1 + draw(64)), node.length() - offset)
    if (length <= 0) return
    const which = draw(4)
    if (which === 0) await refusedByDisk(node.zero(offset, length, { unmap: true, fast: false }))
    else if (which === 1) await refusedByDisk(node.discard(offset, length))
    else await refusedByDisk(g.write(node, offset, new Uint8Array(length).fill(round)))
    if (draw(4) === 0) await refusedByDisk(node.flush())
  }
}

t.test('whatever is in an image, it can be opened, used and closed, or is refused', async (t) => {
  const folder = t.testdir({})
  const file = path.join(folder, 'a.qcow2')
  const originals = images(folder)
  const g = testGraph(t)
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const draw = random(seed)
  const before = process.memoryUsage().rss
  const end = performance.now() + seconds * 1000
  let opened = 0
  for (; performance.now() < end; ) {
    const bytes = Buffer.from(originals[draw(originals.length)] ?? smallImage())
    // Half of the damage goes into the header and what follows it.
    mutate(bytes, draw(2) === 0 ? 4096 : bytes.length, draw)
    writeFileSync(file, bytes)
    const readOnly = draw(3) === 0
    try {
      const node = await openImage(g, file, { 'read-only': readOnly, backing: null, cache })
      opened += 1
      if (node.length() <= 16 * MiB) await readAll(g, node, 16 * KiB)
      if (!readOnly) await change(g, node, draw)
      await g.graph.remove(node.name)
      if (readOnly) t.ok(readFileSync(file).equals(bytes), 'reading writes nothing')
    } catch (error) {
      if (error instanceof CommandError) continue
      writeFileSync(path.join(folder, 'failed.qcow2'), bytes)
      throw error
    }
  }
  t.comment(`${opened} images opened`)
  const grown = process.memoryUsage().rss - before
  t.ok(grown < 384 * MiB, `${Math.round(grown / MiB)} MiB more than before`)
})
